"""The residual backbone: a stack of mixers and channel mixers by name."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import MLPS, RMSNorm
from jaxmodels.layers.common import check_fields, wide
from jaxmodels.mixers import MIXERS, contract
from jaxmodels.mixers.registry import make_mixer, make_mlp, pick
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import place_like

__all__ = ["REMAT", "Backbone", "Block"]

# What the backward pass keeps of a block: all, the results of products with
# weights, or nothing but its input.
REMAT = {
  "none": None,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}

State = Any


class Block(nn.Module):
  """x + mixer(norm(x)), then x + mlp(norm(x)).

  Attributes:
    width: D.
    mixer: Name of the sequence mixer.
    mixer_options: Its fields that differ from the defaults.
    mlp: Name of the channel mixer; "none" leaves that half out.
    mlp_options: Its fields that differ from the defaults.
    output_scale: Factor on the initial weights that write to the stream.
    axis_name: Mesh axis that L is cut over, inside `shard_map`.
    dtype: Of the computation; the stream itself is float32 or wider.
    param_dtype: Of the parameters.
  """

  width: int
  mixer: str
  mixer_options: Mapping[str, Any]
  mlp: str
  mlp_options: Mapping[str, Any]
  output_scale: float
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """[B, L, D] to [B, L, D], and the mixer's state."""
    mixer = self._mixer(name="mixer")
    y, state = contract.mix(
      mixer, self._norm("mixer_norm")(x), state, segment_ids
    )
    x = x + place_like(y.astype(x.dtype), x)
    mlp = make_mlp(self.mlp, self.mlp_options, **self._common(), name="mlp")
    if mlp is not None:
      y = contract.mix_channels(mlp, self._norm("mlp_norm")(x))
      x = x + place_like(y.astype(x.dtype), x)
    return x, state

  def init_state(self, batch_size: int) -> State:
    """The mixer's zero state."""
    return contract.zero_state(self._mixer(parent=None), batch_size)

  def _mixer(self, **scope: Any) -> nn.Module:
    if self.axis_name is not None:
      scope["axis_name"] = self.axis_name
    return make_mixer(self.mixer, self.mixer_options, **self._common(), **scope)

  def _common(self) -> dict[str, Any]:
    return {
      "width": self.width,
      "output_scale": self.output_scale,
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }

  def _norm(self, name: str) -> RMSNorm:
    return RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name=name)


class Repeat(nn.Module):
  """One round of the pattern of mixers: the body of the scan over layers.

  Attributes:
    blocks: Unbound blocks to copy into this scope.
    remat: As in `Backbone`.
  """

  blocks: tuple[Block, ...]
  remat: str

  @nn.compact
  def __call__(
    self, x: jax.Array, states: State, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, State]:
    """[B, L, D] to [B, L, D], and the states of the round's mixers."""
    after = []
    for i, block in enumerate(self.blocks):
      own = _checkpointed(block, self.remat, f"block_{i}", in_scan=True)
      x, state = own(x, None if states is None else states[i], segment_ids)
      after.append(state)
    return x, tuple(after)


class Backbone(nn.Module):
  """A pre-norm residual stack (Xiong et al. 2020, arXiv:2002.04745).

  Layer i has the mixer `mixers[i mod len(mixers)]`, so that a hybrid is a
  list of names. What writes to the stream starts smaller by
  1 / sqrt(writes in the stack), as in GPT-2 (Radford et al. 2019), so that
  the stream's size does not grow with depth. The stream is kept in float32 or
  wider: rounding it to bfloat16 at every write would lose small ones.

  Attributes:
    width: D.
    depth: Number of layers; with `scan_layers` a multiple of len(mixers).
    mixers: Names of mixers, repeated to the depth.
    mixer_options: For each name, fields that differ from its defaults.
    mlp: Name of the channel mixer of every layer.
    mlp_options: Its fields that differ from the defaults.
    scan_layers: Whether to scan over repeats of the pattern: the program is
      compiled for one round, parameters and states are stacked along a first
      axis. Else each layer has parameters of its own.
    remat: "none", "dots" (keep products with weights) or "full" (recompute
      all): what the backward pass keeps of each layer.
    axis_name: Mesh axis that L is cut over, inside `shard_map`: each device
      gives its piece of x and of the ids, and the whole state.
    dtype: Of the computation.
    param_dtype: Of the parameters.
  """

  width: int
  depth: int
  mixers: tuple[str, ...]
  mixer_options: Mapping[str, Mapping[str, Any]] = nn.FrozenDict()
  mlp: str = "gated_mlp"
  mlp_options: Mapping[str, Any] = nn.FrozenDict()
  scan_layers: bool = False
  remat: str = "none"
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

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
      state: As returned or made by `init_state`; None is its zero.
      segment_ids: [B, L] integers, a run of equal ids per segment, or None.

    Returns:
      The normed stream [B, L, D], and the state: a tuple with one entry a
      layer, or with `scan_layers` one a mixer of the pattern, stacked over
      the repeats.
    """
    self._check()
    checks.shape("Backbone", "x", x, (None, None, self.width), "[B, L, width]")
    x = x.astype(wide(self.dtype))
    if self.scan_layers:
      x, state = self._scan(x, state, segment_ids)
    else:
      x, state = self._unrolled(x, state, segment_ids)
    norm = RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")
    return norm(x), state

  def _unrolled(
    self, x: jax.Array, states: State, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, State]:
    _check_entries(states, self.depth)
    after = []
    for i, block in enumerate(self._blocks(self.depth)):
      own = _checkpointed(block, self.remat, f"layer_{i}", in_scan=False)
      x, state = own(x, None if states is None else states[i], segment_ids)
      after.append(state)
    return x, tuple(after)

  def _scan(
    self, x: jax.Array, state: State, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, State]:
    _check_entries(state, len(self.mixers))
    # True stands for every name: whatever variables and random streams mixers
    # use, each layer has its own, as in the unrolled stack.
    scanned = nn.scan(
      Repeat,
      variable_axes={True: 0},
      split_rngs={True: True},
      in_axes=(0, nn.broadcast),
      length=self._repeats(),
    )
    blocks = self._blocks(len(self.mixers))
    return scanned(blocks, self.remat, name="repeats")(x, state, segment_ids)

  def init_state(self, batch_size: int) -> State:
    """The zero state of every mixer; each leaf has a buffer of its own."""
    if not self.scan_layers:
      blocks = self._blocks(self.depth)
      return _distinct(tuple(b.init_state(batch_size) for b in blocks))
    repeats = self._repeats()
    return jax.tree.map(
      lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], repeats, 0),
      tuple(b.init_state(batch_size) for b in self._blocks(len(self.mixers))),
    )

  def _repeats(self) -> int:
    checks.require(
      self.depth % len(self.mixers) == 0,
      "Backbone: with scan_layers, depth must be a multiple of "
      f"len(mixers) = {len(self.mixers)}, got {self.depth}",
    )
    return self.depth // len(self.mixers)

  def _blocks(self, count: int) -> tuple[Block, ...]:
    """The first `count` layers, not bound to a scope."""
    self._check()
    writes = self.depth * (1 if self.mlp == "none" else 2)
    return tuple(
      Block(
        width=self.width,
        mixer=mixer,
        mixer_options=self.mixer_options.get(mixer, {}),
        mlp=self.mlp,
        mlp_options=self.mlp_options,
        output_scale=1 / math.sqrt(writes),
        axis_name=self.axis_name,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        parent=None,
      )
      for mixer in (self.mixers[i % len(self.mixers)] for i in range(count))
    )

  def _check(self) -> None:
    check_fields(self, "depth")
    checks.require(
      not isinstance(self.mixers, str),
      f"Backbone: mixers must be a tuple of names, got {self.mixers!r}",
    )
    checks.require(len(self.mixers) > 0, "Backbone: mixers must not be empty")
    pick("remat", self.remat, REMAT)
    for name in (*self.mixers, *self.mixer_options):
      pick("mixer", name, MIXERS)
    pick("mlp", self.mlp, MLPS)


def _check_entries(state: State, count: int) -> None:
  """Checks that a state is a tuple of so many entries."""
  checks.require(
    state is None or (isinstance(state, tuple | list) and len(state) == count),
    f"Backbone: state must be a tuple of {count} entries, as init_state and a "
    f"call return it, got {jax.tree.structure(state)}",
  )


def _distinct(state: State) -> State:
  """Copies an array that stands in a state more than once.

  A caller who donates the state to `jit` needs a buffer per leaf.
  """
  seen: set[int] = set()

  def own(leaf: Any) -> Any:
    if id(leaf) in seen:
      return jnp.copy(leaf)
    seen.add(id(leaf))
    return leaf

  return jax.tree.map(own, state)


def _checkpointed(
  block: Block, remat: str, name: str, *, in_scan: bool
) -> nn.Module:
  """A copy of `block` in the scope of the caller, rematerialised if asked."""
  kind = Block
  if remat != "none":
    # Inside a scan nothing can be merged across iterations anyway.
    kind = nn.remat(Block, policy=REMAT[remat], prevent_cse=not in_scan)
  fields = {
    field: getattr(block, field)
    for field in Block.__dataclass_fields__
    if field not in ("parent", "name")
  }
  return kind(**fields, name=name)
