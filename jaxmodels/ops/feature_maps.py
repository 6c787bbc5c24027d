"""Fixed feature maps of linear attention: phi(x) on the last axis.

Linear attention replaces exp(q^T k) by the kernel phi(q)^T phi(k). Each
docstring gives the kernel of its map. The maps take queries or keys [..., K],
keep the dtype, and scale nothing. Learned maps are in
`jaxmodels.layers.feature_maps`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = [
  "FEATURE_MAPS",
  "elu_plus_one",
  "identity",
  "relu",
  "softmax",
  "taylor",
]


def identity(x: jax.Array) -> jax.Array:
  """x, unchanged: the kernel q^T k, of either sign.

  Linear attention without a map, as in RetNet (Sun et al. 2023,
  arXiv:2307.08621) and GLA (Yang et al. 2023, arXiv:2312.06635).
  """
  return x


def elu_plus_one(x: jax.Array) -> jax.Array:
  """exp(x) for x <= 0 and x + 1 above, channel by channel: a kernel above 0.

  Katharopoulos et al. 2020, arXiv:2006.16236.
  """
  # elu(x) + 1 would round to 0 where exp(x) is far below 1.
  return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))


def relu(x: jax.Array) -> jax.Array:
  """max(x, 0), channel by channel: a kernel of at least 0.

  Kasai et al. 2021, arXiv:2103.13076, apply it after a dense map; Qin et al.
  2022, arXiv:2202.08791, apply it to q and k.
  """
  return jnp.maximum(x, 0)


def softmax(x: jax.Array) -> jax.Array:
  """The softmax over the channels: a kernel in (0, 1].

  Shen et al. 2018, arXiv:1812.01243, use it for queries; here keys use it too.
  """
  return jax.nn.softmax(x, -1)


def taylor(x: jax.Array) -> jax.Array:
  """[1, x, x (x) x / sqrt(2)], [..., K] to [..., 1 + K + K^2].

  The kernel is 1 + q^T k + (q^T k)^2 / 2, the Taylor series of exp(q^T k) to
  second order, and is at least 1/2. Based (Arora et al. 2024, arXiv:2402.18668)
  applies the map to q and k divided by K^(1/4), with K = 16.
  """
  products = x[..., :, None] * x[..., None, :]
  products = products.reshape((*x.shape[:-1], x.shape[-1] ** 2))
  return jnp.concatenate(
    [jnp.ones_like(x[..., :1]), x, products * 0.5**0.5], -1
  )


# Maps by name, for the field `feature_map` of mixers.
FEATURE_MAPS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "identity": identity,
  "elu_plus_one": elu_plus_one,
  "relu": relu,
  "softmax": softmax,
  "taylor": taylor,
}
