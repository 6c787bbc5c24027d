"""MemoryFormer: hashed table lookups in place of products with matrices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import check_fields, divide, wide
from jaxmodels.layers.mlp import ChannelMixer
from jaxmodels.layers.norms import RMSNorm
from jaxmodels.ops.engine.explicit import run_by_letters

__all__ = ["MemoryFormer", "hashed_lookup"]


class MemoryFormer(ChannelMixer):
  """Two layers of hashed table lookups, with a norm between them.

  The input of a layer is split in chunks z of b channels. The signs of a chunk
  are the index of a row of its own table T [2^b, F], and the output is the sum
  over all chunks:

    y = sum_z p(z) T[signs(z)],   p(z) = prod_i sigmoid(2 |z_i|)

  p(z) is the softmax of z . s over all vectors s of signs, at s = signs(z). It
  carries the gradient to z; the signs have none. A token costs additions, and
  no product with a matrix.

  Ding et al. 2024, "MemoryFormer: Minimize Transformer Computation by Removing
  Fully-Connected Layers", arXiv:2411.12992: the part in place of the MLP. The
  first layer has D / b tables of 2^b rows, and its output D / b chunks of b + e
  channels, so that the second has D / b tables of 2^(b + e) rows. Departure:
  RMSNorm between them.

  Attributes:
    width: D.
    hidden: The number of channels between the layers; a multiple of the number
      of chunks D / b. The default is D (b + 2) / b: e = 2, as in the paper.
    output_scale: Factor on the initial values of the second tables.
    dtype: The dtype of the computation; hashes are float32 or wider.
    param_dtype: The dtype of the parameters.
    bits: b, at most 16; it divides D.
  """

  bits: int = 8

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    check_fields(self, "bits")
    chunks = divide(self, "bits", self.width, "D")
    hidden = self.hidden or chunks * (self.bits + 2)
    name = type(self).__name__
    if hidden % chunks or max(self.bits, hidden // chunks) > 16:
      raise ValueError(
        f"{name}: hidden must be a multiple of D / bits = {chunks}, and bits "
        f"and hidden / {chunks} at most 16, got hidden={hidden}, "
        f"bits={self.bits}"
      )
    y = self._lookup("first", x, chunks, hidden, 1.0)
    y = RMSNorm(
      dtype=wide(self.dtype), param_dtype=self.param_dtype, name="norm"
    )(y)
    return self._lookup("second", y, chunks, self.width, self.output_scale)

  @nn.nowrap
  def _lookup(
    self, name: str, x: jax.Array, chunks: int, features: int, scale: float
  ) -> jax.Array:
    bits = x.shape[-1] // chunks
    # p(z) is about 0.77^b for normal z: the sum has the variance of x.
    deviation = scale * chunks**-0.5 * 0.77**-bits
    table = self.param(
      name,
      nn.initializers.normal(deviation),
      (chunks, 2**bits, features),
      self.param_dtype,
    )
    return run_by_letters(
      "hashed_lookup",
      lambda arrays: hashed_lookup(**arrays).astype(self.dtype),
      {
        "x": jnp.asarray(x, wide(self.dtype)),
        "table": table.astype(self.dtype),
      },
      {"x": "... D", "table": "G M F"},
      "... F",
    )


def hashed_lookup(x: jax.Array, table: jax.Array) -> jax.Array:
  """One layer of `MemoryFormer`.

  Args:
    x: [..., D], float32 or wider.
    table: [G, 2^b, F], with D = G b.

  Returns:
    [..., F], in the dtype of the table.
  """
  count, rows, features = table.shape
  bits = rows.bit_length() - 1
  z = x.reshape(-1, count, bits)
  powers = 2 ** np.arange(bits, dtype=np.int32)
  signs = jnp.where(z >= 0, powers[None, None], 0)
  index = jnp.sum(signs, -1, dtype=jnp.int32)
  weight = jnp.exp(jnp.sum(nn.log_sigmoid(2 * jnp.abs(z)), -1))

  def add(total, one):  # One table at a time: [N, F] at once, not [N, G, F].
    place, share, rows = one
    found = jnp.take(rows, place, 0, mode="clip").astype(share.dtype)
    return total + share[:, None] * found, None

  # Zeros made from z, so that they are sharded like z.
  zero = jnp.sum(jnp.zeros_like(z), (1, 2))[:, None]
  zero = zero + jnp.zeros((1, features), z.dtype)
  total, _ = jax.lax.scan(add, zero, (index.T, weight.T, table))
  return total.reshape(*x.shape[:-1], features).astype(table.dtype)
