"""Time-invariant state-space model: the same matrices at every token.

Every channel d has its own model with one input and one output,

    h_t = A h_{t-1} + B x_t,  y_t = Re(C . h_t),

the recurrence of LSSL (Gu et al. 2021, arXiv:2110.13985), S4 (Gu et al. 2021,
arXiv:2111.00396) and S4D (Gu et al. 2022, arXiv:2206.11893). Because the
matrices do not change, the work of a chunk is three products with tables that
are made once per call: a token reads the other tokens of its chunk through the
impulse response C A^j B, it reads the state before the chunk through C A^(i+1),
and it writes to the state after the chunk through A^(c-1-i) B. So the states of
single tokens are never in memory.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import array
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options, resolve
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method, Summary

_NAME = "state_space"


class Tokens(NamedTuple):
  """A chunk: x [c, D], padding [c], 1 at tokens of padding."""

  x: Any
  padding: Any


def state_space(
  x: jax.Array,
  A: jax.Array,
  B: jax.Array,
  C: jax.Array,
  initial_state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """A time-invariant state-space model per channel.

      h_t[d] = A[d] h_{t-1}[d] + B[d] x_t[d],  y_t[d] = Re(C[d] . h_t[d])

  A[d] is a diagonal, or a matrix. With conjugate pairs of eigenvalues, pass one
  number of each pair and 2 C.

  "chunked" stores one state per chunk of c tokens. "recurrent" runs token by
  token. "associative" stores the states of all tokens. With a full A,
  "chunk_parallel", "associative" and `axis_name` multiply matrices: one product
  of N x N matrices per channel and chunk.

  Cost, chunked forward: about 2 c + 4 N flops per element of x, or 2 c + 12 N
  if A is complex; a full A adds 2 N^2 / c, and 4 N^2 more where c does not
  divide L. Once per call and channel, a full A takes 2 N^3 log2(c) flops, which
  do not depend on the length or the batch.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    x: [..., L, D] real.
    A: [D, N], or [D, N, N]; real or complex. (LSSL, S4 and S4D discretise a
      continuous model first.)
    B: [D, N].
    C: [D, N].
    initial_state: [..., D, N], complex if A, B or C is.
    chunk_size: c, 32 by default on a CPU, 64 elsewhere.

  Returns:
    y [..., L, D], and the final state [..., D, N].
  """
  x = array(_NAME, "x", x)
  checks.floating(_NAME, x=x)
  length = x.shape[-2] if x.ndim > 1 else 1
  options = Options(reverse, method, chunk_size, axis_name)
  choice = choose(_NAME)
  form, size = resolve(_NAME, options, length, choice.value, choice)
  size = 1 if form in ("recurrent", "associative") else size
  padded = size > 1 and (is_open(length) or length % size > 0)
  recurrence = functools.partial(_recurrence, size=size, padded=padded)
  y, state = dataclasses.replace(OP, recurrence=recurrence)(
    {"x": x, "A": A, "B": B, "C": C}, initial_state, segment_ids, options
  )
  return y.astype(x.dtype), state


class Tables(NamedTuple):
  """What the products of a chunk of c tokens need.

  Attributes:
    powers: A^1, A^2, A^4, ..., A^c, each [D, N] or [D, N, N].
    toeplitz: [c, c, D], Re(C A^(i - j) B) for j <= i, and 0.
    observe: [c, D, N], C A^(i + 1).
    reach: [c, D, N], A^(c - 1 - i) B.
  """

  powers: list[jax.Array]
  toeplitz: jax.Array
  observe: jax.Array
  reach: jax.Array


def _recurrence(x, A, B, C, size, padded):
  dtype = wide(x, A, B, C)
  A, B, C = (matrix.astype(dtype) for matrix in (A, B, C))
  tokens = Tokens(x, jnp.sum(jnp.zeros_like(x), -1, x.dtype))
  family = _by_token(A, B, C)
  if size > 1:
    family = _by_chunk(_tables(A, B, C, size), padded)
  zero = functools.partial(_zero, B=B)
  return Recurrence(family._replace(zero=zero), tokens, choose(_NAME))


def _zero(token, B):
  del token
  return jnp.zeros_like(B)


def _product(A, h):
  """`A h` of a diagonal [D, N] or matrices [D, N, N], and h [..., D, N]."""
  if A.ndim == 2:
    return A * h if h.ndim == 2 else A[None] * h
  return jnp.einsum("dij,...dj->...di", A, h, precision=lax.Precision.HIGHEST)


def compose(earlier, later):
  """Composes two affine maps."""
  A = later.transition
  if A.ndim == 2:
    transition = A * earlier.transition
  else:
    transition = jnp.matmul(
      A, earlier.transition, precision=lax.Precision.HIGHEST
    )
  return Summary(transition, advance(later, earlier.update))


def advance(summary, state):
  """`A h + b`."""
  return _product(summary.transition, state) + summary.update


def _by_token(A, B, C) -> Family:
  """The recurrence as it is written, for chunks of one token."""

  def summarize(token, masks):
    kept = jnp.where(masks.through, A, 0)
    return Summary(kept, B * token.x[0][:, None].astype(B.dtype))

  def read_and_advance(token, masks, state):
    state = jnp.where(masks.through, state, 0)
    state = _product(A, state) + B * token.x[0][:, None].astype(B.dtype)
    return jnp.real(jnp.sum(C * state, -1))[None], state

  def read(token, masks, state):
    return read_and_advance(token, masks, state)[0]

  return Family(summarize, compose, advance, read, read_and_advance)


def _by_chunk(tables: Tables, padded: bool) -> Family:
  """Chunks by products with the tables; `padded` if some may have padding."""
  size = tables.toeplitz.shape[0]
  whole = tables.powers[-1]

  def tokens_of(chunk):
    """The number of tokens that are not padding."""
    return size - jnp.sum(chunk.padding.astype(jnp.int32))

  def advanced(chunk, state):
    """The state after the chunk if nothing is written in it."""
    if not padded:
      return _product(whole, state)
    count = tokens_of(chunk)
    for i, power in enumerate(tables.powers):
      used = count >> i & 1 > 0
      state = jnp.where(used, _product(power, state), state)
    return state

  def transition(chunk):
    """A to the number of tokens."""
    if not padded:
      return whole
    if whole.ndim == 2:
      return advanced(chunk, jnp.ones_like(whole))
    width, count = whole.shape[:2]
    columns = np.eye(count, dtype=whole.dtype)[:, None]
    moved = advanced(chunk, jnp.broadcast_to(columns, (count, width, count)))
    return jnp.moveaxis(moved, 0, -1)

  def written(chunk, masks):
    """The state after the chunk from zero."""
    x = jnp.where(masks.exit[:, None], chunk.x, 0)
    if padded:
      # The tokens move to the end, since the table, which is much larger than
      # x and the same for all rows, cannot move for each row.
      shifted = jnp.concatenate([jnp.zeros_like(x), x])
      x = lax.dynamic_slice_in_dim(shifted, tokens_of(chunk), x.shape[0])
    return _over_complex("jdn,jd->dn", tables.reach, x)

  def summarize(chunk, masks):
    kept = jnp.where(masks.through, transition(chunk), 0)
    return Summary(kept, written(chunk, masks))

  def read(chunk, masks, state):
    weights = tables.toeplitz
    if not masks.constant:
      weights = jnp.where(masks.pair[..., None], weights, 0)
    y = jnp.einsum("ijd,jd->id", weights, chunk.x)
    return y + jnp.where(masks.entry[:, None], _observed(tables, state), 0)

  def read_and_advance(chunk, masks, state):
    kept = jnp.where(masks.through, advanced(chunk, state), 0)
    return read(chunk, masks, state), kept + written(chunk, masks)

  return Family(
    summarize,
    compose,
    advance,
    read,
    read_and_advance,
    neutral=Tokens(0, 1),
  )


def _observed(tables, state):
  """Re(C A^(i + 1) h), [c, D], as products of real numbers."""
  y = jnp.einsum("idn,dn->id", tables.observe.real, state.real)
  if not jnp.iscomplexobj(state):
    return y
  return y - jnp.einsum("idn,dn->id", tables.observe.imag, state.imag)


def _over_complex(letters, weights, x):
  """An einsum of complex weights and real x, as products of real numbers."""
  if not jnp.iscomplexobj(weights):
    return jnp.einsum(letters, weights, x)
  return lax.complex(
    jnp.einsum(letters, weights.real, x), jnp.einsum(letters, weights.imag, x)
  )


def _tables(A, B, C, size: int) -> Tables:
  """Powers by squaring, and the tables by doubling: log2(c) steps."""
  powers = [A]
  written, observed = B[None], _transposed(A, C)[None]
  while written.shape[0] < size:
    power = powers[-1]
    written = jnp.concatenate([written, _product(power, written)])
    observed = jnp.concatenate([observed, _transposed(power, observed)])
    square = compose(Summary(power, B), Summary(power, B)).transition
    powers.append(square)
  kernel = jnp.real(jnp.sum(C[None] * written, -1))  # [c, D]
  lag = np.arange(size)[:, None] - np.arange(size)
  toeplitz = jnp.where((lag >= 0)[..., None], kernel[np.maximum(lag, 0)], 0)
  return Tables(powers, toeplitz, observed, jnp.flip(written, 0))


def _transposed(A, row):
  """`row A` of rows [..., D, N]."""
  if A.ndim == 2:
    return _product(A, row)
  return _product(jnp.swapaxes(A, -1, -2), row)


OP = Op(
  _NAME,
  _recurrence,
  {
    "x": "... L D",
    "A": "D N | D N N",
    "B": "D N",
    "C": "D N",
  },
  y="... L D",
  state="... D N",
  heads=False,
  kind="complex",
)
