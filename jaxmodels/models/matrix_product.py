"""A classifier of discrete records by a product of matrices."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.layers.common import check_fields
from jaxmodels.ops import dense_recurrence
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["MatrixProduct", "MatrixProductState"]

# Tokens between two normalisations of the vector. The largest singular value
# of a matrix is then at most 1, and float32 holds a product of 16 matrices that
# shrink a vector by up to 200 each.
_RUN = 16


@serializable
class MatrixProductState(NamedTuple):
  """The product so far, `exp(log_norm) vector`, and the number of tokens.

  Attributes:
    vector: [B, N] of norm 1.
    log_norm: [B].
    position: [B] of int32.
  """

  vector: jax.Array
  log_norm: jax.Array
  position: jax.Array


class MatrixProduct(nn.Module):
  """A matrix product state with an index of classes.

    h_0 = v,  h_t = A_{t, x_t} h_{t-1},  f = W h_L
    p(class c) = f_c^2 / sum_c' f_c'^2,  logits = log(f_c^2 / |f|^2 + epsilon)

  The token chooses the matrix. f is multilinear in the one-hot tokens, so it is
  a tensor of S^L numbers per class, in L S N^2 parameters. It represents parity
  of any length with N = 2 and shared matrices, which no function of single
  tokens does. Norms are kept apart as logarithms, so records of any length
  neither overflow nor underflow.

  Stoudenmire & Schwab 2016, "Supervised learning with quantum-inspired tensor
  networks", arXiv:1605.05775. Departures: tokens are one-hot (the paper has two
  numbers per pixel); the class index is at the end, not in the middle; the loss
  is that of the probabilities above (Glasser et al. 2018, arXiv:1806.05964),
  not a squared error; gradients train all matrices at once, not sweeps with
  singular values, so N is fixed. Matrices start near the identity.

  Attributes:
    vocab_size: S, the number of different tokens.
    classes: The number of classes.
    width: N, the bond dimension.
    length: L, if each place has its own matrices; None to share them.
    noise: Deviation of the initial matrices from the identity, times sqrt(N).
    epsilon: Least probability, which bounds the gradient where f_c = 0.
    dtype: Not used: products are in float32 or wider.
    param_dtype: The dtype of the parameters.
  """

  vocab_size: int
  classes: int
  width: int = 16
  length: int | None = None
  noise: float = 0.1
  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    state: MatrixProductState | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, MatrixProductState]:
    """Reads records.

    Args:
      tokens: [B, L] integers in [0, vocab_size).
      state: The state of an earlier call, which read the start of the records.
      segment_ids: Not used: all tokens of a row are one record.

    Returns:
      logits [B, classes], whose exponentials have the sum 1 up to epsilon, and
      the state.

    Raises:
      ValueError: A field or tokens is wrong, or more tokens than `length`.
    """
    del segment_ids
    check_fields(self, "vocab_size", "classes", "length")
    checks.shape("MatrixProduct", "tokens", tokens, (None, None), "[B, L]")
    checks.integers("MatrixProduct", tokens=tokens)
    batch, length = tokens.shape
    checks.require(
      self.length is None or length <= self.length,
      f"MatrixProduct: tokens must be [B, L <= length = {self.length}], got L ="
      f" {length}",
    )
    matrices, scales = self._matrices()
    if state is None:
      start = self.param(
        "start", nn.initializers.normal(1.0), (self.width,), self.param_dtype
      )
      vector = jnp.broadcast_to(
        start.astype(matrices.dtype), (batch, self.width)
      )
      zero = jnp.zeros(batch, matrices.dtype)
      state = MatrixProductState(vector, zero, jnp.zeros(batch, jnp.int32))
      state = _normalized(state)
    state = _advance(matrices, scales, tokens, state)
    out = self.param(
      "output",
      nn.initializers.normal(1.0),
      (self.classes, self.width),
      self.param_dtype,
    )
    f = jnp.einsum("cn,bn->bc", out.astype(matrices.dtype), state.vector)
    square = jnp.square(f)
    share = square / jnp.sum(square, 1, keepdims=True)
    return jnp.log(share + self.epsilon), state

  def _matrices(self) -> tuple[jax.Array, jax.Array]:
    """Matrices [T, S, N, N] of Frobenius norm 1, and logs of norms [T, S]."""

    def init(key, shape, dtype):
      spread = self.noise / self.width**0.5
      noise = spread * jax.random.normal(key, shape, dtype)
      return noise + jnp.broadcast_to(jnp.eye(self.width, dtype=dtype), shape)

    shape = (self.length or 1, self.vocab_size, self.width, self.width)
    matrices = self.param("matrices", init, shape, self.param_dtype)
    matrices = matrices.astype(jnp.promote_types(matrices.dtype, jnp.float32))
    norms = jnp.sqrt(jnp.sum(jnp.square(matrices), (2, 3), keepdims=True))
    return matrices / norms, jnp.log(norms[:, :, 0, 0])


def _normalized(state: MatrixProductState) -> MatrixProductState:
  """Moves the norm of the vector to the logarithm."""
  norm = jnp.sqrt(jnp.sum(jnp.square(state.vector), 1, keepdims=True))
  vector, log_norm, position = state
  return MatrixProductState(
    vector / norm, log_norm + jnp.log(norm[:, 0]), position
  )


def _advance(
  matrices: jax.Array,
  scales: jax.Array,
  tokens: jax.Array,
  state: MatrixProductState,
) -> MatrixProductState:
  """Multiplies by the matrices of all tokens, in runs of a few tokens."""
  batch, length = tokens.shape
  run = min(_RUN, length)
  padding = -length % max(run, 1)
  tokens = jnp.pad(tokens, ((0, 0), (0, padding)))
  given = jnp.pad(jnp.ones((batch, length), bool), ((0, 0), (0, padding)))
  offsets = jnp.arange(length + padding, dtype=jnp.int32)
  place = state.position[:, None] + offsets[None]
  place = place if matrices.shape[0] > 1 else jnp.zeros_like(place)
  same = jnp.eye(matrices.shape[-1], dtype=matrices.dtype)[None, None]

  def body(state, inputs):
    tokens, place, given = inputs
    # A token or a place that does not exist gives NaN.
    A = matrices.at[place, tokens].get(mode="fill", fill_value=jnp.nan)
    A = jnp.where(given[..., None, None], A, same)
    scale = scales.at[place, tokens].get(mode="fill", fill_value=jnp.nan)
    scale = jnp.sum(jnp.where(given, scale, 0), 1)
    _, vector = dense_recurrence(A, jnp.zeros_like(A[..., 0]), state.vector)
    count = jnp.sum(given, 1, dtype=jnp.int32)
    moved = MatrixProductState(
      vector, state.log_norm + scale, state.position + count
    )
    return _normalized(moved), None

  def runs(x):
    return jnp.moveaxis(x.reshape(batch, -1, run), 1, 0)

  if length == 0:
    return state
  return lax.scan(body, state, (runs(tokens), runs(place), runs(given)))[0]
