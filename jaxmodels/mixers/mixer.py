"""The base class of sequence mixers: their contract, fields and steps."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_input,
  check_positive,
  merge_heads,
  projection,
  split_heads,
  wide,
)
from jaxmodels.layers.norms import LayerNorm, RMSNorm
from jaxmodels.layers.rotary import advance_positions
from jaxmodels.layers.short_convolution import ShortConvolution
from jaxmodels.layers.token_shift import token_shift
from jaxmodels.ops.engine import checks

__all__ = ["Mixer"]


class Mixer(nn.Module):
  """The fields and steps that sequence mixers share.

  A mixer defines `mix`, its equation, with the steps below. Its fields are its
  configuration. The fields of this class are keywords, except `width`. The
  steps `dense`, `heads_of`, `new_norm`, `new_convolution` and `project_out`
  make submodules in the scope of the mixer, under names that the caller
  chooses. A submodule must not have the name of a method, because the bridge to
  flax.nnx would confuse the two. `run` calls an op with the options of the
  mixer. `jaxmodels.ops` explains segments and the options of ops.

  Attributes:
    width: D.
    norm_epsilon: Added inside the root of the mixer's norms, if it has norms.
    reverse: Whether to run from the last token to the first. The state then
      enters at the last token and belongs to its segment.
    output_scale: Factor on the initial weights of the output projection.
    method: The `method` of the op.
    chunk_size: The `chunk_size` of the op.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`.
    dtype: The dtype of the computation; decays, write strengths and states are
      float32 or wider.
    param_dtype: The dtype of the parameters.
    one_bit: Whether the dense maps of the mixer have weights of one bit, as in
      Bi-Mamba: see `jaxmodels.layers.one_bit.OneBitDense`. Biases, norms,
      convolutions, and matrices of another form do not change.
  """

  width: int
  _: dataclasses.KW_ONLY
  norm_epsilon: float = 1e-6
  reverse: bool = False
  output_scale: float = 1.0
  method: str = "auto"
  chunk_size: int | None = None
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  one_bit: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: Any = None,
    *,
    segment_ids: jax.Array | None = None,
    **place: Any,
  ) -> tuple[jax.Array, Any]:
    """Mixes along L.

    Args:
      x: [B, L, D].
      state: The state of an earlier call, or of `init_state`; None is the zero
        state.
      segment_ids: [B, L] integers, a run of equal ids per segment, or None.
      **place: The arguments `layer`, `depth` and `shared` of a stack, if `mix`
        has keywords for them; see `jaxmodels.mixers.contract`.

    Returns:
      y [B, L, D], and the state: a pytree with the structure, shapes and
      dtypes of `init_state`. A mixer that is given `shared` returns it too.

    Raises:
      ValueError: A field, x or segment_ids is wrong; the message names it and
        the mixer.
    """
    self._check_shared()
    check_input(self, x, segment_ids)
    equation: Any = self.mix  # A mixer's own keywords are its choice.
    return equation(x, state, segment_ids, **place)

  def __init_subclass__(cls, **options: Any) -> None:
    # Otherwise each step of `mix` adds a scope to the names in a profile.
    if "mix" in cls.__dict__:
      nn.nowrap(cls.__dict__["mix"])
    super().__init_subclass__(**options)

  @nn.nowrap
  def mix(
    self,
    x: jax.Array,
    state: Any,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, Any]:
    """The equation, called after x and the shared fields are checked.

    A mixer that needs its layer index, the depth or shared values has keywords
    with defaults for them:
    `def mix(self, x, state, segment_ids, *, layer=0, depth=1)`.
    """
    raise NotImplementedError(f"{type(self).__name__} must define mix")

  def init_state(self, batch_size: int) -> Any:
    """The zero state: zeros in the shapes and dtypes of a call's state.

    A mixer whose initial state is not zero overrides this method.
    """
    self._check_shared()
    # The state of a sharded sequence is that of the whole sequence.
    whole = self.clone(parent=None, name=None, axis_name=None)
    x = jax.ShapeDtypeStruct((batch_size, 1, self.width), self.dtype)
    with checks.numerics(False):
      shapes = _state_shapes(whole, x)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  @property
  def wide(self) -> jnp.dtype:
    """The wider of float32 and `dtype`."""
    return wide(self.dtype)

  @nn.nowrap
  def dense(self, name: str, features: int, **options: Any) -> nn.Dense:
    """A dense map, by default without bias; see `layers.common.projection`."""
    return projection(self, features, name, **options)

  @nn.nowrap
  def heads_of(
    self, name: str, x: jax.Array, heads: int, features: int, **options: Any
  ) -> jax.Array:
    """A dense map of x [B, L, D] to heads [B, L, heads, features]."""
    return split_heads(self.dense(name, heads * features, **options)(x), heads)

  @nn.nowrap
  def wide_param(
    self, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]
  ) -> jax.Array:
    """A parameter of `param_dtype`, converted to float32 or wider."""
    return self.param(name, init, shape, self.param_dtype).astype(self.wide)

  @nn.nowrap
  def given_to(self, mixer: nn.Module, names: Sequence[str]) -> dict[str, Any]:
    """Fields of this mixer for one inside of it, as far as that has them.

    Args:
      mixer: The mixer inside.
      names: The fields. `one_bit` is among them wherever it is true, so that a
        mixer inside may also have it alone.
    """
    if self.one_bit:
      names = (*names, "one_bit")
    known = mixer.__dataclass_fields__
    return {name: getattr(self, name) for name in names if name in known}

  @nn.nowrap
  def new_norm(
    self,
    name: str = "norm",
    kind: type[RMSNorm] | type[LayerNorm] = RMSNorm,
    **options: Any,
  ) -> RMSNorm | LayerNorm:
    """A norm over the last axis, so on heads [B, L, H, V] a norm per head."""
    return kind(
      epsilon=self.norm_epsilon,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
      **options,
    )

  @nn.nowrap
  def new_convolution(
    self, name: str, kernel_width: int, **options: Any
  ) -> ShortConvolution:
    """A short convolution, in reverse if the mixer is."""
    return ShortConvolution(
      kernel_width,
      reverse=self.reverse,
      axis_name=self.axis_name,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
      **options,
    )

  @nn.nowrap
  def positions(
    self,
    x: jax.Array,
    entering: jax.Array | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array]:
    """The position of each token in its segment, in the order of the run.

    Args:
      x: [B, L, D].
      entering: [B] of int32, the number of earlier tokens of the segment that
        continues from the state; None is 0.
      segment_ids: [B, L] or None.

    Returns:
      positions [B, L], and `entering` [B] of int32 for the next call.
    """
    entering = _none_before(x) if entering is None else entering
    return advance_positions(
      entering, x.shape[1], segment_ids, self.axis_name, reverse=self.reverse
    )

  @nn.nowrap
  def before_and_after(
    self, x: jax.Array, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """How many tokens of its segment precede and follow each token, [B, L]."""

    def count(reverse: bool) -> jax.Array:
      return advance_positions(
        _none_before(x), x.shape[1], segment_ids, self.axis_name, reverse
      )[0]

    return count(False), count(True)

  @nn.nowrap
  def tokens_before(
    self, x: jax.Array, state: jax.Array | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """The token before each token of x [B, L, F], and the last one, [B, F]."""
    return token_shift(
      x,
      state,
      segment_ids=segment_ids,
      reverse=self.reverse,
      axis_name=self.axis_name,
    )

  @nn.nowrap
  def run(
    self,
    op: Callable[..., tuple[jax.Array, Any]],
    *args: Any,
    state: Any,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, Any]:
    """Calls an op with the options of the mixer."""
    return op(
      *args,
      initial_state=state,
      segment_ids=segment_ids,
      reverse=self.reverse,
      method=self.method,
      chunk_size=self.chunk_size,
      axis_name=self.axis_name,
    )

  @nn.nowrap
  def skip_and_gate(self, y: jax.Array, u: jax.Array) -> jax.Array:
    """The output W_o g * sigmoid(W_g g) with g = GELU(y + D * u).

    State-space models end with these steps. D is initially normal.

    Args:
      y: [B, L, D], float32 or wider.
      u: [B, L, D], the input in the dtype of y.
    """
    skip = self.wide_param("D", nn.initializers.normal(1.0), (self.width,))
    y = nn.gelu(y + skip[None, None] * u).astype(self.dtype)
    gate = nn.sigmoid(self.dense("gate", self.width)(y))
    return self.project_out(y) * gate

  @nn.nowrap
  def project_out(self, y: jax.Array, use_bias: bool = False) -> jax.Array:
    """Projects y [B, L, F], or heads [B, L, H, V], to [B, L, D]."""
    if y.ndim == 4:
      y = merge_heads(y)
    return self.dense(
      "output", self.width, scale=self.output_scale, use_bias=use_bias
    )(y)

  @nn.nowrap
  def _check_shared(self) -> None:
    check_fields(self)
    check_positive(self, "norm_epsilon")


def _none_before(x: jax.Array) -> jax.Array:
  """Zeros [B] of int32, made from x so that they are sharded like x."""
  return jnp.sum(jnp.zeros_like(x, jnp.int32), (1, 2), jnp.int32)


def _state_shapes(mixer: Mixer, x: jax.ShapeDtypeStruct) -> Any:
  """The shapes of the state that a mixer returns; the mixer is not bound."""
  try:
    hash(mixer)
  except TypeError:  # A field is an array.
    return jax.eval_shape(functools.partial(_state_after, mixer), x)
  return jax.eval_shape(_cached_state_after, mixer, x)


def _state_after(mixer: Mixer, x: jax.Array) -> Any:
  result, _ = mixer.init_with_output(jax.random.key(0), x)
  return result[1]


# `jit` caches the trace for mixers with equal fields, because a model compares
# every state with its zero state while the model is traced.
_cached_state_after = jax.jit(_state_after, static_argnums=0)
