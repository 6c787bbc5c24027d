"""The residual backbone: a stack of mixers and channel mixers."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_positive, wide
from jaxmodels.mixers import MIXERS, contract
from jaxmodels.mixers.registry import Entry, is_pair, make_module, pick
from jaxmodels.models.block import LAYOUTS, NORMS, Block, Unbound, make_norm
from jaxmodels.models.repeat import REMAT, Repeat, checkpointed
from jaxmodels.ops.engine import checks

__all__ = ["Backbone"]

State = Any


class Backbone(nn.Module):
  """A residual stack of mixers and channel mixers.

  Layer i has the mixer `mixers[i mod len(mixers)]`, and its channel mixer is
  chosen in the same way. So a hybrid is a list. An entry of the list is

  - an unbound module: `GLA(width=256, heads=8)`, or one of a class of your own.
    The model sets its width, dtypes, output_scale and axis_name;
  - a name of `MIXERS` or `MLPS`: "gla";
  - a name and fields that differ from its defaults: ("gla", {"heads": 8}).

  All three give the same parameters. `jaxmodels.mixers.contract` defines mixers
  and channel mixers, the facts about the stack that they can ask for, and the
  values that they can pass from layer to layer.

  The layout of a layer, in which each N is a norm of its own, is

  - "pre_norm": x + mixer(N(x)), then x + mlp(N(x)), and N at the end of the
    stack (Xiong et al. 2020, arXiv:2002.04745), as in nearly all models now;
  - "post_norm": N(x + mixer(x)), then N(x + mlp(x)), as in the first
    Transformers (Vaswani et al. 2017, arXiv:1706.03762) and BERT. If it is the
    layout of the last layer, the stack has no other norm at its end;
  - "res_post_norm": x + N(mixer(x)), then x + N(mlp(x)), and N at the end, as
    in Swin Transformer V2 (Liu et al. 2021, arXiv:2111.09883) and OLMo 2;
  - "parallel": x + mixer(N(x)) + mlp(N(x)) with one N, and N at the end, as in
    GPT-J and PaLM (Chowdhery et al. 2022, arXiv:2204.02311);
  - "no_norm": x + mixer(x), then x + mlp(x), and N at the end, for a mixer that
    normalises the stream itself, such as `SharedBlock`.

  RWKV and GPT-2 have the norm "layer", and the others "rms". `norm_epsilon` is
  1e-5 in the published RWKV, Mamba and Mamba-2. RWKV needs `input_norm`.

  Each write to the stream is a x + m f(x) with a of `skip_scale` and m of
  `residual_scale`, by default 1. DeepNorm is "post_norm" with a above 1 (Wang
  et al. 2022, arXiv:2203.00555); MiniMax-01 is that with `input_norm`.

  Initial weights of output projections are scaled by 1 / sqrt(writes to the
  stream in the stack), as in GPT-2 (Radford et al. 2019), so that the size of
  the stream does not grow with depth. The stream is float32 or wider, because
  rounding to bfloat16 at every write would lose small writes.

  `scan_layers` needs a pattern that repeats: the depth must be a multiple of
  the least common multiple of the lengths of all tuples that are repeated to
  the depth.

  Attributes:
    width: D.
    depth: The number of layers.
    mixers: The sequence mixers, repeated to the depth. An entry may also be the
      module of a channel mixer: the layer then has no sequence mixer.
    mixer_options: For each name in `mixers`, fields that differ from its
      defaults.
    mlp: The channel mixer of every layer, or a tuple of them, repeated to the
      depth; "none" is no channel mixer.
    mlp_options: Fields of the channel mixers that are given by name.
    scan_layers: Whether to scan over repeats of the pattern. Only one round is
      compiled, and parameters and states are stacked along a first axis.
      Otherwise each layer has separate parameters.
    remat: What the backward pass stores of each layer: "none" (everything),
      "dots" (products with weights) or "full" (only the input; it recomputes
      the rest).
    axis_name: The mesh axis over which L is sharded, inside `shard_map`. Each
      device passes its shard of x and of the ids, and the whole state.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
    layout: One of the names above, or a tuple of them, repeated to the depth.
    norm: "rms", "rms_biased" (with a bias), "layer", or "layer_unbiased"
      (without a bias): the norms of the stack; mixers have their own.
    norm_epsilon: Added inside the root of these norms.
    norm_offset: Added to the scales of these norms, whose initial values are
      1 - norm_offset; 1 in Gemma and Qwen3-Next.
    skip_scale: a, one number; or a pair of numbers per layer (of the mixer, of
      the channel mixer), repeated to the depth.
    residual_scale: m, in the same form.
    input_norm: Whether to normalise x before the first layer.
    final_norm: The norm at the end of the stack, by default `norm`.
    final_norm_epsilon: Its epsilon, by default `norm_epsilon`.
  """

  width: int
  depth: int
  mixers: tuple[Entry, ...]
  mixer_options: Mapping[str, Mapping[str, Any]] = nn.FrozenDict()
  mlp: Entry | tuple[Entry, ...] = "gated_mlp"
  mlp_options: Mapping[str, Any] = nn.FrozenDict()
  scan_layers: bool = False
  remat: str = "none"
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  layout: str | tuple[str, ...] = "pre_norm"
  norm: str = "rms"
  norm_epsilon: float = 1e-6
  norm_offset: float = 0.0
  skip_scale: float | tuple[tuple[float, float], ...] = 1.0
  residual_scale: float | tuple[tuple[float, float], ...] = 1.0
  input_norm: bool = False
  final_norm: str | None = None
  final_norm_epsilon: float | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Runs the stack.

    Args:
      x: [B, L, D].
      state: The state of an earlier call, or of `init_state`; None is the zero
        state.
      segment_ids: [B, L] integers, a run of equal ids per segment, or None.

    Returns:
      The normalised stream [B, L, D], and the state: a tuple with one entry per
      layer, or with `scan_layers` one per layer of the pattern, stacked over
      the repeats. An entry is the pair of the mixer's state and the channel
      mixer's state, which is () for a channel mixer without a state.

    Raises:
      ValueError: A field, x, the state or a mixer is wrong; the message names
        it in one line.
    """
    blocks = self.pattern()
    checks.shape("Backbone", "x", x, (None, None, self.width), "[B, L, width]")
    x = x.astype(wide(self.dtype))
    if self.input_norm:
      x = make_norm(self, "input_norm", x.dtype)(x)
    shared = self._initial_shared(blocks, x)
    run = self._scan if self.scan_layers else self._unrolled
    x, state = run(blocks, x, state, segment_ids, shared)
    if blocks[(self.depth - 1) % len(blocks)].layout == "post_norm":
      return x.astype(self.dtype), state
    kind, epsilon = self.final_norm, self.final_norm_epsilon
    norm = make_norm(self, "norm", kind=kind, epsilon=epsilon)
    return norm(x), state

  def _unrolled(
    self,
    blocks: Sequence[Block],
    x: jax.Array,
    states: State,
    segment_ids: jax.Array | None,
    shared: dict[str, jax.Array],
  ) -> tuple[jax.Array, State]:
    _check_entries(states, self.depth)
    after = []
    for i in range(self.depth):
      before = None if states is None else states[i]
      own = self._layer(blocks, i)
      x, state, shared = own(x, before, segment_ids, shared)
      after.append(state)
    return x, tuple(after)

  def _layer(self, blocks: Sequence[Block], i: int) -> nn.Module:
    """Layer i of an unrolled stack, in the scope of this module."""
    block = blocks[i % len(blocks)].clone(layer=i)
    return checkpointed(block, self.remat, f"layer_{i}", in_scan=False)

  def _initial_shared(
    self, blocks: Sequence[Block], x: jax.Array
  ) -> dict[str, jax.Array]:
    """The values that pass from layer to layer, before the first one."""
    modules = _modules(blocks[: self.depth])
    return contract.initial_shared(modules, x, self.depth, self._memo())

  def _scan(
    self,
    blocks: tuple[Block, ...],
    x: jax.Array,
    state: State,
    segment_ids: jax.Array | None,
    shared: dict[str, jax.Array],
  ) -> tuple[jax.Array, State]:
    _check_entries(state, len(blocks))
    # True stands for every name: each layer has its own variables of every
    # collection and its own random streams, as in the unrolled stack.
    scanned = nn.scan(
      Repeat,
      variable_axes={True: 0},
      split_rngs={True: True},
      in_axes=(0, 0, nn.broadcast),
      length=self._repeats(blocks),
    )
    asked = any("layer" in contract.asks_for(m) for m in _modules(blocks))
    index = jnp.arange(self._repeats(blocks)) if asked else None
    repeats = scanned(blocks, self.remat, name="repeats")
    (x, _), state = repeats((x, shared), state, index, segment_ids)
    return x, state

  def init_state(self, batch_size: int) -> State:
    """The zero state of every mixer; each leaf has its own buffer."""
    blocks = self.pattern()
    if not self.scan_layers:
      layers = [blocks[i % len(blocks)] for i in range(self.depth)]
      return _distinct(tuple(b.init_state(batch_size) for b in layers))
    repeats = self._repeats(blocks)
    return jax.tree.map(
      lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], repeats, 0),
      tuple(b.init_state(batch_size) for b in blocks),
    )

  def _repeats(self, blocks: Sequence[Block]) -> int:
    period = len(blocks)
    pattern = f"len(mixers) = {len(self.mixers)}"
    if period != len(self.mixers):
      pattern = f"{period}, the layers after which the pattern repeats"
    checks.require(
      self.depth % period == 0,
      f"Backbone: with scan_layers, depth must be a multiple of {pattern}, got "
      f"{self.depth}",
    )
    return self.depth // period

  def pattern(self) -> tuple[Block, ...]:
    """The layers until mixers and mlp repeat, not bound to a scope."""
    self._check()
    mlps = self._mlps()
    writes = self.depth + sum(
      not _is_none(mlps[i % len(mlps)]) for i in range(self.depth)
    )
    common: dict[str, Any] = {
      "width": self.width,
      "output_scale": 1 / math.sqrt(writes),
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    if self.axis_name is not None:
      common["axis_name"] = self.axis_name

    def made(kind: str, entry: Entry, options: Mapping[str, Any]) -> Any:
      module = make_module(kind, entry, options, common)
      return None if module is None else Unbound(module)

    patterns: dict[str, Sequence[Any]] = {
      "mixer": [made("mixer", e, self._options_of(e)) for e in self.mixers],
      "mlp": [made("mlp", e, self._mlp_options_of(e)) for e in mlps],
      "layout": self._layouts(),
      "skip_scale": _pairs("skip_scale", self.skip_scale),
      "residual_scale": _pairs("residual_scale", self.residual_scale),
    }
    return tuple(
      Block(
        **{name: each[i % len(each)] for name, each in patterns.items()},
        norm=self.norm,
        norm_epsilon=self.norm_epsilon,
        norm_offset=self.norm_offset,
        depth=self.depth,
        layer=None,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        parent=None,
      )
      for i in range(math.lcm(*map(len, patterns.values())))
    )

  def _mlps(self) -> tuple[Entry, ...]:
    """The channel mixers of the pattern, as a tuple."""
    mlp: Any = self.mlp
    if isinstance(mlp, str | nn.Module) or is_pair(mlp):
      return (mlp,)
    checks.require(
      isinstance(mlp, tuple | list) and len(mlp) > 0,
      f"Backbone: mlp must be an entry or a tuple of entries, got {mlp!r}",
    )
    return tuple(mlp)

  def _layouts(self) -> tuple[str, ...]:
    """The layouts of the pattern, as a tuple."""
    layout: Any = self.layout
    layouts = (layout,) if isinstance(layout, str) else tuple(layout)
    for name in layouts:
      pick("layout", name, dict.fromkeys(LAYOUTS))
    checks.require(len(layouts) > 0, "Backbone: layout must not be empty")
    factors = _pairs("skip_scale", self.skip_scale)
    checks.require(
      "parallel" not in layouts or set(factors) == {(1.0, 1.0)},
      "Backbone: the layout 'parallel' has one write to the stream, so "
      f"skip_scale must be 1, got {self.skip_scale}",
    )
    return layouts

  def _options_of(self, entry: Entry) -> Mapping[str, Any]:
    name = entry[0] if is_pair(entry) else entry
    return self.mixer_options.get(name, {}) if isinstance(name, str) else {}

  def _mlp_options_of(self, entry: Entry) -> Mapping[str, Any]:
    # In a pattern, "none" ignores the options; alone, it refuses them.
    alone = len(self._mlps()) == 1
    return {} if _is_none(entry) and not alone else self.mlp_options

  def _memo(self) -> Any:
    """`param(name, init, shape)`, which makes each named parameter once."""
    made: dict[str, jax.Array] = {}

    def param(name: str, init: Any, shape: tuple[int, ...]) -> jax.Array:
      if name not in made:
        made[name] = self.param(f"shared_{name}", init, shape, self.param_dtype)
      return made[name]

    return param

  def _check(self) -> None:
    check_fields(self, "depth")
    check_positive(self, "norm_epsilon")
    checks.require(
      not isinstance(self.mixers, str),
      f"Backbone: mixers must be a tuple of names, got {self.mixers!r}: write "
      f"({self.mixers!r},)",
    )
    checks.require(
      isinstance(self.mixers, tuple | list) and not is_pair(self.mixers),
      "Backbone: mixers must be a tuple of modules, names or (name, options), "
      f"got {self.mixers!r}",
    )
    checks.require(len(self.mixers) > 0, "Backbone: mixers must not be empty")
    pick("remat", self.remat, REMAT)
    pick("norm", self.norm, NORMS)
    if self.final_norm is not None:
      pick("norm", self.final_norm, NORMS)
    if self.final_norm_epsilon is not None:
      check_positive(self, "final_norm_epsilon")
    for name in self.mixer_options:
      pick("mixer", name, MIXERS)


def _is_none(entry: Any) -> bool:
  """Whether an entry stands for no channel mixer."""
  return (entry[0] if is_pair(entry) else entry) == "none"


def _pairs(name: str, value: Any) -> tuple[tuple[float, float], ...]:
  """The factors of mixer and channel mixer, per layer of the pattern."""
  alone = isinstance(value, numbers.Real)
  pairs = ((value, value),) if alone else value
  checks.require(
    isinstance(pairs, tuple | list)
    and len(pairs) > 0
    and all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs)
    and all(
      isinstance(x, numbers.Real) and math.isfinite(x) for p in pairs for x in p
    ),
    f"Backbone: {name} must be a number, or a tuple of pairs of numbers, got "
    f"{value!r}",
  )
  return tuple((a, b) for a, b in pairs)


def _modules(blocks: Sequence[Block]) -> list[nn.Module]:
  """The mixers and channel mixers of some layers."""
  parts = (part for b in blocks for part in (b.mixer, b.mlp))
  return [part.module for part in parts if part is not None]


def _check_entries(state: State, count: int) -> None:
  """Checks that a state is a tuple of `count` pairs."""
  checks.require(
    state is None
    or (
      isinstance(state, tuple | list)
      and len(state) == count
      and all(isinstance(own, tuple | list) and len(own) == 2 for own in state)
    ),
    f"Backbone: state must be a tuple of {count} entries, each a pair of a "
    "mixer's and a channel mixer's state, as init_state and a call return it, "
    f"got {jax.tree.structure(state)}",
  )


def _distinct(state: State) -> State:
  """Copies arrays that occur in a state more than once.

  A caller who donates the state to `jit` needs one buffer per leaf.
  """
  seen: set[int] = set()

  def own(leaf: Any) -> Any:
    if id(leaf) in seen:
      return jnp.copy(leaf)
    seen.add(id(leaf))
    return leaf

  return jax.tree.map(own, state)
