"""Fixed feature maps of linear attention: phi(x) on the last axis.

Linear attention replaces exp(q^T k) by the kernel phi(q)^T phi(k). Each
docstring gives the kernel of its map. The maps take queries or keys [..., K],
keep the dtype, and scale nothing. `FEATURE_MAPS` names those that need nothing
besides. `cosformer` needs positions, and `positive_random` needs random
directions, which `random_directions` draws. Learned maps are in
`jaxmodels.layers.feature_maps`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine.platform import wide

__all__ = [
  "DIRECTIONS",
  "FEATURE_MAPS",
  "cosformer",
  "dpfp",
  "elu_plus_one",
  "identity",
  "positive_random",
  "random_directions",
  "relu",
  "softmax",
  "taylor",
]

# The kinds of random directions.
DIRECTIONS = ("independent", "orthogonal", "simplex")


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


def dpfp(x: jax.Array, order: int = 1) -> jax.Array:
  """Products of channels of r = relu([x, -x]), [..., K] to [..., 2 K order].

  The features are r_i r_{i-j} for j = 1, ..., order, with the index modulo 2 K.
  They are at least 0, and few of them are above 0 for both q and k, so that the
  kernel separates more keys than K. Schlag et al. 2021, arXiv:2102.11174.
  """
  both = relu(jnp.concatenate([x, -x], -1))
  return jnp.concatenate(
    [both * jnp.roll(both, j, -1) for j in range(1, order + 1)], -1
  )


def cosformer(x: jax.Array, positions: jax.Array, horizon: float) -> jax.Array:
  """[relu(x) cos(p), relu(x) sin(p)], p = pi/2 position / horizon.

  The kernel is relu(q)^T relu(k) cos(pi/2 distance / horizon): near tokens have
  more weight. It is at least 0 up to the distance `horizon`, which the paper
  sets to the length of the sequence. Qin et al. 2022, arXiv:2202.08791.

  Args:
    x: [..., L, H, K].
    positions: [..., L].
    horizon: The distance, in tokens, at which the kernel is 0.

  Returns:
    [..., L, H, 2 K] in the dtype of x.
  """
  angles = positions[..., None, None].astype(jnp.float32)
  # Whole periods are dropped in float32, which is exact for whole numbers.
  angles = angles % (4 * horizon) * (jnp.pi / 2 / horizon)
  weights = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
  x = relu(x)
  y = weights[..., :, None].astype(x.dtype) * x[..., None, :]
  return y.reshape((*x.shape[:-1], 2 * x.shape[-1]))


def positive_random(x: jax.Array, directions: jax.Array) -> jax.Array:
  """exp(w^T x - |x|^2 / 2) / sqrt(F) for F directions w, FAVOR+'s features.

  If each w is normal with identity covariance, the mean of the kernel over
  draws is exp(q^T k), and every feature is positive. Choromanski et al. 2020,
  arXiv:2009.14794. A feature is at most exp(|w|^2 / 2) / sqrt(F), so the map
  subtracts no maximum; over keys a maximum would read the future.

  Args:
    x: [..., K].
    directions: [F, K], see `random_directions`.

  Returns:
    [..., F] in the dtype of x; the exponents are float32 or wider.
  """
  count = directions.shape[0]
  dtype = wide(x)
  u, w = x.astype(dtype), directions.astype(dtype)
  square = jnp.sum(u * u, -1, keepdims=True)
  return (jnp.exp(u @ w.T - square / 2) * count**-0.5).astype(x.dtype)


def random_directions(
  key: jax.Array,
  count: int,
  width: int,
  kind: str = "orthogonal",
  dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
  """Draws directions [count, width] for `positive_random`.

  Each direction is normal with identity covariance for every kind, so the
  features are unbiased. The kinds differ in how directions of one block of
  `width` directions depend on each other:

  - "independent": not at all;
  - "orthogonal": at right angles (Choromanski et al. 2020, arXiv:2009.14794);
  - "simplex": with the cosine -1 / (width - 1), the corners of a simplex, which
    has the least mean squared error of all such couplings (Reid et al. 2023,
    arXiv:2301.13856).

  Blocks are independent of each other, and the last one may be incomplete.

  Raises:
    ValueError: The kind is not one of `DIRECTIONS`.
  """
  if kind not in DIRECTIONS:
    raise ValueError(
      f"random_directions: kind must be one of {DIRECTIONS}, got {kind!r}"
    )
  turns, lengths = jax.random.split(key)
  blocks = -(-count // width)
  shape = (blocks, width, width)
  if kind == "independent" or width == 1:
    draw = jax.random.normal(turns, shape, dtype)
    return draw.reshape((-1, width))[:count]
  rows = jax.random.orthogonal(turns, width, (blocks,), dtype)
  if kind == "simplex":
    # The corners of a simplex around 0, with norm 1.
    corners = jnp.eye(width, dtype=dtype) - 1 / width
    rows = corners[None] * (width / (width - 1)) ** 0.5 @ rows
  # Norms of independent normal vectors.
  normal = jax.random.normal(lengths, shape, dtype)
  rows = rows * jnp.linalg.norm(normal, axis=-1, keepdims=True)
  return rows.reshape((-1, width))[:count]


# Maps by name, for the field `feature_map` of mixers.
FEATURE_MAPS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "identity": identity,
  "elu_plus_one": elu_plus_one,
  "relu": relu,
  "softmax": softmax,
  "taylor": taylor,
  "dpfp": dpfp,
}
