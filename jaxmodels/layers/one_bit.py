"""Dense maps whose weights are one bit each, and their packed form."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from jaxmodels.ops.engine import checks

__all__ = [
  "OneBitDense",
  "binarized",
  "pack_signs",
  "packed",
  "sign",
  "unpack_signs",
]


@jax.custom_jvp
def sign(x: jax.Array) -> jax.Array:
  """Returns 1 where x >= 0, and -1 elsewhere; its gradient is that of x.

  That is the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432).
  """
  return jnp.where(x >= 0, 1, -1).astype(x.dtype)


sign.defjvps(lambda tangent, result, x: tangent)


class OneBitDense(nn.Dense):
  """y = W^T x + b with W_ij = scale_i sign(V_ij) + shift_i.

  It is FBI-linear (Ma et al. 2024, arXiv:2407.07093), which Bi-Mamba has as its
  projections (Tang et al. 2024, arXiv:2411.11843). V trains through `sign`. As
  in these papers, each input channel i has a scale and a shift, which train
  too; as in the published code, the shift is initially the mean of V_ij over j,
  and the scale that of |V_ij - shift_i|. Departure: the sign of 0 is 1, so that
  a sign is one bit.

  The parameters are kernel V [D, F], scale [D], shift [D], and with `use_bias`
  b [F]. The kernel may also be the bits of `pack_signs`, which each call
  unpacks; W is the same, bit for bit. With `scan_layers` a model holds the
  unpacked weights of one layer at a time. Without it, XLA may unpack those of
  all layers first. The fields are those of `flax.linen.Dense`.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [..., D] to [..., F].

    Raises:
      ValueError: The kernel is packed, for another D or F.
    """
    shape = (x.shape[-1], self.features)
    given: Any = self.get_variable("params", "kernel")
    if given is not None and given.dtype == jnp.uint8:
      bits = (-(-shape[0] // 8), shape[1])
      checks.shape("OneBitDense", "kernel", given, bits, "[ceil(D / 8), F]")
      scale, shift = (
        jnp.asarray(self.get_variable("params", name))
        for name in ("scale", "shift")
      )
      signs = unpack_signs(given, shape[0], scale.dtype)
    else:
      v = self.param("kernel", self.kernel_init, shape, self.param_dtype)
      scale, shift = (
        self.param(name, lambda _, i=i: _fitted(v)[i])
        for i, name in enumerate(("scale", "shift"))
      )
      signs = sign(v)
    kernel = scale[:, None] * signs + shift[:, None]
    bias = None
    if self.use_bias:
      bias = self.param("bias", self.bias_init, shape[1:], self.param_dtype)
    arrays: Any = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
    x, kernel, bias = arrays
    product = self.dot_general or lax.dot_general
    axes = (((x.ndim - 1,), (0,)), ((), ()))
    y = product(x, kernel, axes, precision=self.precision)
    return y if bias is None else y + jnp.expand_dims(bias, range(y.ndim - 1))


def _fitted(v: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The scale and the shift [..., D] that are initial for V [..., D, F]."""
  shift = jnp.mean(v, -1)
  return jnp.mean(jnp.abs(v - shift[..., None]), -1), shift


def pack_signs(v: jax.Array) -> jax.Array:
  """Returns the signs of V [..., D, F] as bits, uint8 [..., ceil(D / 8), F].

  A bit is 1 where V >= 0. The first of eight channels is the highest bit.
  """
  return jnp.packbits(v >= 0, axis=-2)


def unpack_signs(bits: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
  """Returns the signs [..., width, F] that `pack_signs` packed, 1 or -1."""
  ones = jnp.unpackbits(bits, axis=-2, count=width)
  return jnp.where(ones == 1, 1, -1).astype(dtype)


def packed(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the variables of a model with the kernels of `OneBitDense` packed.

  The model takes them in place of the variables, and has the same outputs. They
  cannot be trained.

  Args:
    variables: Those of any model; kernels that are packed stay so.

  Raises:
    ValueError: The model has no such kernel.
  """
  flat = traverse_util.flatten_dict(dict(variables))
  kernels = {
    path: value
    for path, value in flat.items()
    if path[-1] == "kernel" and (*path[:-1], "shift") in flat
  }
  checks.require(
    len(kernels) > 0,
    "packed: the model has no weights of one bit: set one_bit=True in its"
    " mixers, and train it",
  )
  bits = {
    path: value if value.dtype == jnp.uint8 else pack_signs(value)
    for path, value in kernels.items()
  }
  return traverse_util.unflatten_dict({**flat, **bits})


def binarized(variables: Any, like: Any) -> dict[str, Any]:
  """Returns the variables of a trained model for the same model in one bit.

  This is binarisation after training: V is the trained kernel, and scale and
  shift have their initial values for it.

  Args:
    variables: Those of the model.
    like: Those of the model in one bit, or their shapes.

  Raises:
    ValueError: The models differ in more than that.
  """
  given = traverse_util.flatten_dict(dict(variables))
  wanted = traverse_util.flatten_dict(dict(like))
  fitted = {
    (*path[:-1], name): value
    for path, v in given.items()
    if path[-1] == "kernel" and (*path[:-1], "shift") in wanted
    for name, value in zip(("scale", "shift"), _fitted(v), strict=True)
  }
  found = given | fitted
  shapes, known = (
    {path: x.shape for path, x in tree.items()} for tree in (found, wanted)
  )
  others = {path for path, _ in shapes.items() ^ known.items()}
  checks.require(
    not others,
    "binarized: the models must differ in one_bit alone, but they differ in"
    f" {'/'.join(min(others, default=()))}",
  )
  return traverse_util.unflatten_dict(found)
