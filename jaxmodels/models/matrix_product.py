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

    A_t = I + sum_s x_{t,s} W_{t,s},  h_t = A_t h_{t-1},  h_0 = v
    f = U h_L,  p(class c) = f_c^2 / |f|^2,  logits = log(p + epsilon)

  x_t is a one-hot token, or a vector of S features, such as `cos(pi g / 2)` and
  `sin(pi g / 2)` of a grey level g. f is multilinear in x_1, ..., x_L: a tensor
  of S^L numbers per class, made of L S N^2 parameters. With N = 2 and shared
  matrices it represents the parity of records of any length, which no function
  of single tokens does. Norms are kept apart as logarithms, so records of any
  length neither overflow nor underflow.

  Stoudenmire & Schwab 2016, "Supervised learning with quantum-inspired tensor
  networks", arXiv:1605.05775. Departures: the identity in A, so that weight
  decay removes what a token does, not what came before it; the class index is
  at the end, not in the middle; the loss is that of the probabilities above
  (Glasser et al. 2018, arXiv:1806.05964), not a squared error; gradients train
  all matrices at once, not sweeps with singular values, so N is fixed.

  Attributes:
    vocab_size: S, the number of different tokens, or of features.
    classes: The number of classes.
    width: N, the bond dimension.
    length: L, if each place has its own matrices; None to share them.
    noise: Deviation of the initial numbers of W, times sqrt(N).
    epsilon: Least probability, which bounds the gradient where f_c = 0.
    dtype: Not used: products are in float32 or wider.
    param_dtype: The dtype of the parameters.
  """

  vocab_size: int
  classes: int
  width: int = 16
  length: int | None = None
  noise: float = 0.02
  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: MatrixProductState | None = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, MatrixProductState]:
    """Reads records.

    Args:
      x: Tokens [B, L], integers in [0, vocab_size); or features [B, L, S].
      state: The state of an earlier call, which read the start of the records.
      segment_ids: Not used: all tokens of a row are one record.

    Returns:
      logits [B, classes], whose exponentials have the sum 1 up to epsilon, and
      the state.

    Raises:
      ValueError: A field or x is wrong, or x has more tokens than `length`.
    """
    del segment_ids
    check_fields(self, "vocab_size", "classes", "length")
    self._check(x)
    batch, changes = x.shape[0], self._changes()
    if state is None:
      start = self.param(
        "start", nn.initializers.normal(1.0), (self.width,), self.param_dtype
      )
      vector = jnp.broadcast_to(
        start.astype(changes.dtype), (batch, self.width)
      )
      zero = jnp.zeros(batch, changes.dtype)
      state = MatrixProductState(vector, zero, jnp.zeros(batch, jnp.int32))
      state = _normalized(state)
    state = _advance(changes, x, state)
    out = self.param(
      "output",
      nn.initializers.normal(1.0),
      (self.classes, self.width),
      self.param_dtype,
    )
    f = jnp.einsum("cn,bn->bc", out.astype(changes.dtype), state.vector)
    square = jnp.square(f)
    share = square / jnp.sum(square, 1, keepdims=True)
    return jnp.log(share + self.epsilon), state

  def _check(self, x: jax.Array) -> None:
    name, rest = "MatrixProduct", (self.vocab_size,) * (len(x.shape) > 2)
    words = "[B, L] or [B, L, vocab_size]"
    checks.shape(name, "x", x, (None, None, *rest), words)
    if rest:
      checks.floating(name, x=x)
    else:
      checks.integers(name, x=x)
    checks.require(
      self.length is None or x.shape[1] <= self.length,
      f"MatrixProduct: x must have at most length = {self.length} tokens per "
      f"record, got {x.shape[1]}",
    )

  def _changes(self) -> jax.Array:
    """The matrices less the identity, [T, S, N, N]."""
    shape = (self.length or 1, self.vocab_size, self.width, self.width)
    init = nn.initializers.normal(self.noise / self.width**0.5)
    changes = self.param("matrices", init, shape, self.param_dtype)
    return changes.astype(jnp.promote_types(changes.dtype, jnp.float32))


def _normalized(state: MatrixProductState) -> MatrixProductState:
  """Moves the norm of the vector to the logarithm."""
  norm = jnp.sqrt(jnp.sum(jnp.square(state.vector), 1, keepdims=True))
  vector, log_norm, position = state
  return MatrixProductState(
    vector / norm, log_norm + jnp.log(norm[:, 0]), position
  )


def _advance(
  changes: jax.Array, x: jax.Array, state: MatrixProductState
) -> MatrixProductState:
  """Multiplies by the matrices of all tokens, in runs of a few tokens."""
  length = x.shape[1]
  if length == 0:
    return state
  run = min(_RUN, length)
  same = jnp.eye(changes.shape[-1], dtype=changes.dtype)[None, None]

  def body(state, inputs):
    x, given = inputs
    offsets = jnp.arange(run, dtype=jnp.int32)
    place = state.position[:, None] + offsets[None]
    A = same + _chosen(changes, x, place)
    norm = jnp.sqrt(jnp.sum(jnp.square(A), (2, 3), keepdims=True))
    given = given[..., None, None]
    A = jnp.where(given, A / norm, same)
    scale = jnp.sum(jnp.where(given, jnp.log(norm), 0), (1, 2, 3))
    _, vector = dense_recurrence(A, jnp.zeros_like(A[..., 0]), state.vector)
    count = jnp.sum(given, (1, 2, 3), dtype=jnp.int32)
    moved = MatrixProductState(
      vector, state.log_norm + scale, state.position + count
    )
    return _normalized(moved), None

  def runs(x):
    more = [(0, 0), (0, -length % run)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, more)
    return jnp.moveaxis(x.reshape(x.shape[0], -1, run, *x.shape[2:]), 1, 0)

  given = jnp.ones(x.shape[:2], bool)
  return lax.scan(body, state, (runs(x), runs(given)))[0]


def _chosen(changes: jax.Array, x: jax.Array, place: jax.Array) -> jax.Array:
  """The changes [B, C, N, N] of tokens x [B, C], or of features [B, C, S]."""
  if changes.shape[0] == 1:
    place = jnp.zeros_like(place)
  if x.ndim == 2:  # A token or a place that does not exist gives NaN.
    return changes.at[place, x].get(mode="fill", fill_value=jnp.nan)
  own = changes.at[place].get(mode="fill", fill_value=jnp.nan)
  return jnp.einsum("bcs,bcsij->bcij", x.astype(own.dtype), own)
