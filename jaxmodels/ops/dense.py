"""Dense recurrence: `h_t = A_t h_{t-1} + b_t`, with full or block matrices.

The recurrence of bilinear RNNs (Ebrahimi & Memisevic 2025, arXiv:2505.21749)
and of state tracking: permutation matrices compose any group, 2 x 2 rotations
count. Products of the matrices are formed one factor at a time and never
inverted, so that integers stay integers and rotations keep the norm.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.explicit import run_by_letters
from jaxmodels.ops.engine.method import run
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method, Summary

_CHUNK = 16


class Tokens(NamedTuple):
  """A chunk: A [C, M, M], b [C, M], padding [C], 1 where there is no token."""

  A: jax.Array | int
  b: jax.Array | int
  padding: jax.Array | int


def dense_recurrence(
  A: jax.Array,
  b: jax.Array,
  initial_state: jax.Array | None = None,
  *,
  block_diagonal: bool = False,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Linear recurrence with a matrix a token, `h_t = A_t h_{t-1} + b_t`.

  The matrix acts before b is added; y is every state. A matrix of G blocks
  on its diagonal is given by its blocks: they are G recurrences of width M,
  at M / N of the work.

  Given the state, a token costs one matrix-vector product, and that is what
  "chunked" and "recurrent" do; their gradient keeps A and y. "chunk_parallel",
  "associative" and `axis_name` multiply the matrices of a span, M times the
  work, for a scan of L / C + C steps.

  Cost: about 2 N^2 flops a token, 2 G M^2 of blocks, chunked forward.

  Args:
    A: [..., L, N, N], or [..., L, G, M, M] with `block_diagonal`; real or
      complex.
    b: [..., L, N], or [..., L, G, M] with `block_diagonal`.
    initial_state: [..., N], or [..., G, M]; zero by default.
    block_diagonal: A and b have an axis of blocks.
    segment_ids: [..., L] integers; a segment is a run of equal ids. The
      entering state has id 0, and each token sees only its own segment.
    reverse: run from the last token to the first.
    method: a form, see `jaxmodels.ops.engine.recurrence`; "auto" is
      "recurrent" on CPU, where it is fastest, and "chunk_parallel" elsewhere.
    chunk_size: a power of two; 16 by default.
    axis_name: mesh axis over which L is sharded, inside `shard_map`.

  Returns:
    every state, like b, in the dtype of b, and the last one in float32,
    complex64 or wider.

  Raises:
    ValueError: a shape, dtype or option does not fit; names the argument.
  """
  op = "dense_recurrence"
  A, b, initial_state, segment_ids = arrays(
    op, A=A, b=b, initial_state=initial_state, segment_ids=segment_ids
  )
  options = {
    "reverse": reverse,
    "method": method,
    "chunk_size": chunk_size,
    "axis_name": axis_name,
  }
  axes, state = ("...LG", "...G") if block_diagonal else ("...L", "...")
  return run_by_letters(
    op,
    lambda arrays: _run(op, block_diagonal, options, **arrays),
    {
      "A": A,
      "b": b,
      "initial_state": initial_state,
      "segment_ids": segment_ids,
    },
    {"A": axes, "b": axes, "initial_state": state, "segment_ids": "...L"},
    (axes, state),
    batch=jnp.ndim(b) - (3 if block_diagonal else 2),
  )


def _run(op, block_diagonal, options, A, b, initial_state, segment_ids):
  """The op on arrays without types of a mesh."""
  _check(op, A, b, initial_state, block_diagonal, segment_ids)
  *batch, length = b.shape[: -2 if block_diagonal else -1]
  if initial_state is None:
    initial_state = jnp.zeros_like(jnp.sum(b, axis=len(batch)))
  dtype = wide(A, b, initial_state)
  count, groups = math.prod(batch), b.shape[-2] if block_diagonal else 1
  width = b.shape[-1]
  tokens = Tokens(
    A.reshape(count, length, groups, width, width),
    b.reshape(count, length, groups, width),
    jnp.zeros((count, length, groups), b.dtype),
  )
  with jax.named_scope(op):
    y, state = run(
      op,
      FAMILY,
      tokens,
      initial_state.astype(dtype).reshape(count, groups, width),
      None if segment_ids is None else segment_ids.reshape(count, length),
      default=_CHUNK,
      on_cpu=("recurrent", "recurrent"),
      dtype=b.dtype,
      **options,
    )
  y, state = y.reshape(b.shape), state.reshape(initial_state.shape)
  checks.finite(op, y=y, final_state=state)
  return y, state


def _segments(chunk, masks):
  """Segments [C, ...] of single tokens; padding is the identity."""
  same = np.eye(chunk.b.shape[1], dtype=bool)[None]
  identity = jnp.where(same, jnp.ones_like(chunk.A), 0)
  padding = jnp.real(chunk.padding)[:, None, None] > 0
  A = jnp.where(padding, identity, chunk.A)
  return Summary(masks.cut(A), chunk.b)


def summarize(chunk, masks):
  """The tokens' summaries one after the other."""
  summaries = _segments(chunk, masks)

  def body(earlier, later):
    return compose(earlier, later), None

  first = jax.tree.map(lambda x: x[0], summaries)
  rest = jax.tree.map(lambda x: x[1:], summaries)
  return lax.scan(body, first, rest)[0]


def compose(earlier, later):
  """Affine maps one after the other."""
  return Summary(
    _product(later.transition, earlier.transition),
    advance(later, earlier.update),
  )


def advance(summary, state):
  """`A h + b`."""
  return _product(summary.transition, state) + summary.update


def read(chunk, masks, state):
  """Every state of the chunk."""
  return read_and_advance(chunk, masks, state)[0]


def read_and_advance(chunk, masks, state):
  """With the state at hand a token is one matrix-vector product."""

  def body(state, summary):
    state = advance(summary, state)
    return state, state

  last, y = lax.scan(body, state, _segments(chunk, masks))
  return y, last


def _product(A, x):
  """`A x`; a TPU would else round the factors of a long product."""
  return jnp.matmul(A, x, precision=lax.Precision.HIGHEST)


def tangent(chunk, change, before):
  """`dh_t = A_t dh_{t-1} + (dA_t h_{t-1} + db_t)`."""
  written = _product(change.A, before[..., None])[..., 0]
  return chunk._replace(b=written + change.b)


FAMILY = Family(
  summarize,
  compose,
  advance,
  read,
  read_and_advance,
  tangent=tangent,
  neutral=Tokens(0, 0, 1),
)


def _check(op, A, b, initial_state, block_diagonal, segment_ids):
  """Checks shapes and dtypes, and numbers where that is switched on."""
  letters = "[..., L, G, M]" if block_diagonal else "[..., L, N]"
  state = 2 if block_diagonal else 1
  checks.rank_at_least(op, "b", b, 1 + state, letters)
  checks.shape(
    op,
    "A",
    A,
    (*b.shape, b.shape[-1]),
    "[..., L, G, M, M]" if block_diagonal else "[..., L, N, N]",
  )
  for name, x in (("A", A), ("b", b), ("initial_state", initial_state)):
    if x is not None:
      checks.dtype(op, name, x, jnp.inexact, "real or complex floating point")
  real = not jnp.issubdtype(b.dtype, jnp.complexfloating)
  for name, x in (("A", A), ("initial_state", initial_state)):
    if x is not None and real:
      checks.dtype(op, name, x, jnp.floating, "real where b is")
  leading = b.shape[:-state]
  if initial_state is not None:
    shape = (*leading[:-1], *b.shape[-state:])
    words = "[..., G, M]" if block_diagonal else "[..., N]"
    checks.shape(op, "initial_state", initial_state, shape, words)
  checks.segment_ids(op, segment_ids, leading)
  checks.finite(op, A=A, b=b, initial_state=initial_state)
