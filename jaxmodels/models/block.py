"""One layer of a stack: a mixer and a channel mixer on the residual stream."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import LayerNorm, RMSNorm
from jaxmodels.mixers import contract
from jaxmodels.ops.engine.explicit import place_like

__all__ = ["LAYOUTS", "NORMS", "Block", "Unbound", "make_norm"]

NORMS: dict[str, Any] = {
  "rms": RMSNorm,
  "rms_biased": functools.partial(RMSNorm, use_bias=True),
  "layer": LayerNorm,
  "layer_unbiased": functools.partial(LayerNorm, use_bias=False),
}
LAYOUTS = ("pre_norm", "post_norm", "res_post_norm", "parallel", "no_norm")

State = Any


@dataclasses.dataclass(frozen=True)
class Unbound:
  """Holds a module in a field, because Linen would bind a bare module."""

  module: nn.Module

  def bind(self, parent: nn.Module, name: str) -> nn.Module:
    """A copy in the scope of `parent`."""
    return self.module.clone(parent=parent, name=name)


def make_norm(
  like: Any,
  name: str,
  dtype: jnp.dtype | None = None,
  kind: str | None = None,
  epsilon: float | None = None,
) -> nn.Module:
  """A norm in the scope of its caller, with the fields of the module `like`.

  Args:
    like: The module whose fields the norm has.
    name: Its name.
    dtype: Its dtype, by default that of `like`.
    kind: One of `NORMS`, by default the field `norm`.
    epsilon: Its epsilon, by default the field `norm_epsilon`.
  """
  return NORMS[kind or like.norm](
    epsilon=epsilon or like.norm_epsilon,
    offset=like.norm_offset,
    dtype=dtype or like.dtype,
    param_dtype=like.param_dtype,
    name=name,
  )


class Block(nn.Module):
  """A layer of `Backbone`, which documents the layouts and the norms.

  Attributes:
    mixer: The sequence mixer.
    mlp: The channel mixer, or None.
    layout: One of `LAYOUTS`.
    norm: One of `NORMS`.
    norm_epsilon: The epsilon of the norms.
    norm_offset: The offset of the norms.
    skip_scale: The factors on the stream at the writes of the mixer and of the
      channel mixer.
    residual_scale: The factors on what the mixer and the channel mixer write.
    depth: The number of layers in the stack.
    layer: The index of this layer, or None under a scan, where the index is an
      argument of the call.
    dtype: The dtype of the computation; the stream is float32 or wider.
    param_dtype: The dtype of the parameters.
  """

  mixer: Unbound
  mlp: Unbound | None
  layout: str
  norm: str
  norm_epsilon: float
  norm_offset: float
  skip_scale: tuple[float, float]
  residual_scale: tuple[float, float]
  depth: int
  layer: int | None
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State,
    segment_ids: jax.Array | None,
    shared: dict[str, jax.Array],
    layer: jax.Array | None = None,
  ) -> tuple[jax.Array, State, dict[str, jax.Array]]:
    """Runs the layer.

    Args:
      x: The stream [B, L, D].
      state: The states of the mixer and the channel mixer, or None.
      segment_ids: [B, L] or None.
      shared: Values that pass from layer to layer, by name.
      layer: The index under a scan: an int32 scalar.

    Returns:
      The stream, the two states, and the shared values.
    """
    place = self.layer if layer is None else layer
    parallel = self.layout == "parallel"
    y = make_norm(self, "norm")(x) if parallel else x.astype(self.dtype)
    after = []
    for i, part in enumerate(self._parts()):
      if self.layout == "pre_norm":
        y = make_norm(self, f"{part}_norm")(x)
      given = {"layer": place, "depth": self.depth, "shared": shared}
      write, own, shared = contract.mix_in_stack(
        self._bound(part),
        y,
        None if state is None else state[i],
        segment_ids,
        given,
        contract.MIXER if part == "mixer" else contract.MLP,
      )
      if self.layout == "res_post_norm":
        write = make_norm(self, f"{part}_norm", x.dtype)(write)
      write = _scaled(write.astype(x.dtype), self.residual_scale[i])
      x = _scaled(x, self.skip_scale[i]) + place_like(write, x)
      if self.layout == "post_norm":
        x = make_norm(self, f"{part}_norm", x.dtype)(x)
      if not parallel:
        y = x.astype(self.dtype)
      after.append(own)
    return x, (*after, *[()] * (2 - len(after))), shared

  def init_state(self, batch_size: int) -> State:
    """The zero states of the mixer and the channel mixer."""
    parts = (self.mixer, self.mlp)
    return tuple(
      () if part is None else contract.zero_state(part.module, batch_size)
      for part in parts
    )

  def _parts(self) -> tuple[str, ...]:
    return ("mixer",) if self.mlp is None else ("mixer", "mlp")

  def _bound(self, part: str) -> nn.Module:
    return getattr(self, part).bind(self, part)


def _scaled(x: jax.Array, factor: float) -> jax.Array:
  return x if factor == 1 else x * factor
