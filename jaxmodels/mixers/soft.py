"""SOFT: softmax-free attention with a Gaussian kernel, by Nystrom's method."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.layers.common import check_fields, divide
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.segments import count_changes

__all__ = ["Soft", "newton_inverse"]

# The smallest sum of a row of S: Nystrom's S may have rows that sum to less.
_FLOOR = 1e-6


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def newton_inverse(matrix: jax.Array, steps: int = 20) -> jax.Array:
  """The inverse of symmetric matrices, computed with products only.

      Y_0 = A / |A|_1^2,  Y_{k+1} = 2 Y_k - Y_k A Y_k

  The relative error at an eigenvalue l of A is (1 - l^2 / |A|_1^2)^(2^steps):
  the iteration leaves out directions with eigenvalues near 0, as the
  pseudo-inverse of Moore and Penrose does. (The paper has 2 A / |A|_1^2, which
  does not converge for the identity.) The gradient is that of the inverse,
  -Y^T G Y^T, and not that of the iterations.

  Args:
    matrix: A, [..., M, M], symmetric.
    steps: The number of iterations.

  Returns:
    [..., M, M].
  """
  norm = jnp.max(jnp.sum(jnp.abs(matrix), -1), -1)[..., None, None]
  start = matrix / norm**2
  return lax.fori_loop(0, steps, lambda _, y: 2 * y - y @ matrix @ y, start)


def _forward(matrix: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
  inverse = newton_inverse(matrix, steps)
  return inverse, inverse


def _backward(
  steps: int, inverse: jax.Array, slope: jax.Array
) -> tuple[jax.Array]:
  del steps
  return (-inverse.mT @ slope @ inverse.mT,)


newton_inverse.defvjp(_forward, _backward)


class _Places(NamedTuple):
  """Where tokens are: their landmark [B, L], and their segment [B, L]."""

  landmark: jax.Array
  segment: jax.Array


class Soft(Mixer):
  """Attention with a Gaussian kernel between tokens; not causal.

  Per head, over the tokens of a segment, with u_j the mean of q over the j-th
  of M runs of tokens of equal length:

    q_t, v_t = W_q x_t, W_v x_t,  k(a, b) = exp(-|a - b|^2 / (2 sqrt(K)))
    P_{jt} = k(u_j, q_t) [M, L],  A_{ij} = k(u_i, u_j) [M, M]
    S = P^T A^+ P,  D = diag(S 1)
    y = W_o concat_heads(D^(-1/2) S D^(-1/2) V)

  A^+ is the inverse of `newton_inverse`, so the layer needs only products, and
  its cost is linear in L. The queries are also the keys, so that S is
  symmetric. Lu et al. 2021, "SOFT: Softmax-free Transformer with Linear
  Complexity", arXiv:2110.11945; symmetric normalisation: Lu et al. 2022,
  arXiv:2207.03341. Departures: runs of tokens along the sequence, where the
  paper pools patches of an image; LeCun initialisation.

  The other fields are those of `Mixer`; `reverse`, `method` and `chunk_size`
  have no effect, and there is no state.

  Attributes:
    heads: H.
    landmarks: M; a segment of fewer tokens has one landmark per token.
    steps: The iterations of the inverse.
    max_segments: With `segment_ids`, the largest number of segments per row.
      The outputs of tokens in further segments are NaN.
  """

  heads: int = 4
  landmarks: int = 49
  steps: int = 20
  max_segments: int = 8

  def mix(
    self, x: jax.Array, state: None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, tuple[()]]:
    """The equation above."""
    del state
    check_fields(self, "heads", "landmarks", "steps", "max_segments")
    width = divide(self, "heads", self.width, "D")
    q = self.heads_of("query", x, self.heads, width).astype(self.wide)
    v = self.heads_of("value", x, self.heads, width).astype(self.wide)
    before, after = self.before_and_after(x, segment_ids)
    count = before + after + 1
    fewest = jnp.minimum(count, self.landmarks)
    segment = _numbered(segment_ids, count, self.axis_name)
    places = _Places(before * fewest // count, segment)
    segments = 1 if segment_ids is None else self.max_segments
    sizes = (segments, self.landmarks, self.steps)
    y = _attend(q, v, *places, sizes, self.axis_name)
    if segment_ids is not None:
      checks.between("Soft", "the segment", segment, 0, segments - 1)
      beyond = (segment >= segments)[..., None, None]
      y = jnp.where(beyond, jnp.asarray(jnp.nan, y.dtype), y)
    return self.project_out(y.astype(self.dtype)), ()


def _numbered(
  ids: jax.Array | None, like: jax.Array, axis_name: str | None
) -> jax.Array:
  """The number of each token's segment in its row, from 0."""
  if ids is None:
    return jnp.zeros_like(like)
  length = ids.shape[1]
  if axis_name is None:
    return count_changes(ids, ids[:, :1])
  ids = halo.gather(ids, 1, axis_name, False)
  start = halo.rank(axis_name, False) * length
  every = count_changes(ids, ids[:, :1])
  return lax.dynamic_slice_in_dim(every, start, length, 1)


@by_letters("B L H V", q="B L H K", v="B L H V", landmark="B L", segment="B L")
def _attend(
  q: jax.Array,
  v: jax.Array,
  landmark: jax.Array,
  segment: jax.Array,
  sizes: tuple[int, int, int],
  axis_name: str | None,
) -> jax.Array:
  """Computes y [B, L, H, V]; sums over tokens are sums over devices too."""
  segments, count, steps = sizes

  def total(x: jax.Array) -> jax.Array:
    return x if axis_name is None else lax.psum(x, axis_name)

  own = jax.nn.one_hot(segment, segments, dtype=q.dtype)  # [B, L, S]
  member = jax.nn.one_hot(landmark, count, dtype=q.dtype)  # [B, L, M]
  tokens = total(jnp.einsum("bls,blm->bsm", own, member))
  sums = total(jnp.einsum("bls,blm,blhk->bshmk", own, member, q))
  means = sums / jnp.maximum(tokens, 1)[:, :, None, :, None]
  exists = (tokens > 0).astype(q.dtype)[:, :, None, :, None]  # [B, S, 1, M, 1]
  both = exists * exists.mT
  A = _kernel(means, means) * both
  # A landmark without tokens is alone, so that A has an inverse.
  A = A + jnp.eye(count, dtype=q.dtype)[None, None, None] * (1 - both)
  q, v = jnp.moveaxis(q, 1, 2)[:, None], jnp.moveaxis(v, 1, 2)[:, None]
  P = _kernel(means, q) * exists * jnp.moveaxis(own, 1, 2)[:, :, None, None, :]
  inverse = newton_inverse(A, steps)
  near = inverse @ total(jnp.sum(P, -1, keepdims=True))
  rows = jnp.sum(P * near, (1, 3))[:, None, ..., None]  # S 1, [B, 1, H, L, 1]
  scale = lax.rsqrt(jnp.maximum(rows, _FLOOR))
  y = scale * (P.mT @ (inverse @ total(P @ (scale * v))))
  return jnp.moveaxis(jnp.sum(y, 1), 1, 2)


def _kernel(a: jax.Array, b: jax.Array) -> jax.Array:
  """The kernel k of all pairs: [..., M, K] and [..., L, K] to [..., M, L]."""
  squares = jnp.sum(a * a, -1)[..., :, None] + jnp.sum(b * b, -1)[..., None, :]
  distance = jnp.maximum(squares - 2 * (a @ b.mT), 0)
  return jnp.exp(-distance / (2 * a.shape[-1] ** 0.5))
