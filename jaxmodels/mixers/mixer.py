"""The base class of sequence mixers: their contract, fields and steps."""

import dataclasses
import functools
from collections.abc import Callable
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
from jaxmodels.ops.engine import checks

__all__ = ["Mixer"]


class Mixer(nn.Module):
  """What sequence mixers share.

  A mixer defines `mix`: its equation, written with the steps below. Its fields
  are its configuration; those of this class are keywords, except `width`. The
  steps make submodules in the scope of the mixer, named by their caller:
  `dense`, `heads_of`, `new_norm`, `new_convolution` and `project_out`; `run`
  calls an op with the options of the mixer. A submodule must not have the name
  of a method: the bridge to flax.nnx would take one for the other.

  Attributes:
    width: D.
    norm_epsilon: What is added inside the root of the mixer's norms; unused by
      a mixer that has none.
    reverse: Whether to run from the last token to the first. The state then
      enters at the last token and belongs to its segment.
    output_scale: Factor on the initial weights of the output projection.
    method: Of the op.
    chunk_size: Of the op.
    axis_name: Mesh axis that L is cut over, inside `shard_map`.
    dtype: Of the computation; decays, write strengths and states are float32
      or wider.
    param_dtype: Of the parameters.
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
      state: As returned or made by `init_state`; None is its zero.
      segment_ids: [B, L] integers, a run of equal ids per segment, or None.
      **place: What a stack tells a mixer whose `mix` has keywords for it:
        `layer`, `depth` and `shared`, see `jaxmodels.mixers.contract`.

    Returns:
      y [B, L, D], and the state: a pytree with the structure, shapes and
      dtypes of `init_state`. A mixer that takes `shared` returns it too.

    Raises:
      ValueError: A field, x or segment_ids is wrong; names the mixer and it.
    """
    self._check_shared()
    check_input(self, x, segment_ids)
    equation: Any = self.mix  # A mixer's own keywords are its choice.
    return equation(x, state, segment_ids, **place)

  def __init_subclass__(cls, **options: Any) -> None:
    # Or every step of the equation adds a scope to its names in a profile.
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
    """The equation: a call, once x and the shared fields are checked.

    A mixer that asks for its place in a stack names it by keywords with
    defaults: `def mix(self, x, state, segment_ids, *, layer=0, depth=1)`.
    """
    raise NotImplementedError(f"{type(self).__name__} must define mix")

  def init_state(self, batch_size: int) -> Any:
    """The zero state: zeros like the state that a call returns.

    A mixer whose state does not start at zero overrides this.
    """
    self._check_shared()
    # The state of a sharded sequence is that of the whole.
    whole = self.clone(parent=None, name=None, axis_name=None)
    x = jax.ShapeDtypeStruct((batch_size, 1, self.width), self.dtype)
    with checks.numerics(False):
      shapes = _state_shapes(whole, x)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  @property
  def wide(self) -> jnp.dtype:
    """float32, or `dtype` where that is wider."""
    return wide(self.dtype)

  @nn.nowrap
  def dense(self, name: str, features: int, **options: Any) -> nn.Dense:
    """A dense map without bias; options as for `layers.common.projection`."""
    return projection(self, features, name, **options)

  @nn.nowrap
  def heads_of(
    self, name: str, x: jax.Array, heads: int, features: int, **options: Any
  ) -> jax.Array:
    """A dense map of x [B, L, D] to heads [B, L, heads, features]."""
    return split_heads(self.dense(name, heads * features, **options)(x), heads)

  @nn.nowrap
  def new_norm(
    self,
    name: str = "norm",
    kind: type[RMSNorm] | type[LayerNorm] = RMSNorm,
    **options: Any,
  ) -> RMSNorm | LayerNorm:
    """A norm over the last axis: per head on heads [B, L, H, V]."""
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
    """A short convolution, in the direction of the mixer."""
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
      entering: [B] of int32, tokens of the entering segment so far; None is 0.
      segment_ids: [B, L] or None.

    Returns:
      positions [B, L], and [B] of int32 to enter the next call.
    """
    if entering is None:
      # Zeros made from x, so that they lie on a mesh as x does.
      entering = jnp.sum(jnp.zeros_like(x, jnp.int32), (1, 2), jnp.int32)
    return advance_positions(
      entering, x.shape[1], segment_ids, self.axis_name, reverse=self.reverse
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
  def project_out(self, y: jax.Array) -> jax.Array:
    """The output projection of [B, L, F] or of heads [B, L, H, V] to D."""
    if y.ndim == 4:
      y = merge_heads(y)
    return self.dense("output", self.width, scale=self.output_scale)(y)

  @nn.nowrap
  def _check_shared(self) -> None:
    check_fields(self)
    check_positive(self, "norm_epsilon")


def _state_shapes(mixer: Mixer, x: jax.ShapeDtypeStruct) -> Any:
  """Shapes of the state after a call of a mixer that is not bound."""
  try:
    hash(mixer)
  except TypeError:  # A field is an array.
    return jax.eval_shape(functools.partial(_state_after, mixer), x)
  return jax.eval_shape(_cached_state_after, mixer, x)


def _state_after(mixer: Mixer, x: jax.Array) -> Any:
  result, _ = mixer.init_with_output(jax.random.key(0), x)
  return result[1]


# JAX keeps what it traced for mixers with equal fields: models compare every
# state with its zero state while they are traced.
_cached_state_after = jax.jit(_state_after, static_argnums=0)
