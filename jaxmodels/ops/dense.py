"""Dense recurrence: `h_t = A_t h_{t-1} + b_t`, with full or block matrices.

The recurrence of bilinear RNNs (Ebrahimi & Memisevic 2025, arXiv:2505.21749)
and of state tracking: permutation matrices represent any finite group, and
2 x 2 rotations count. The op multiplies matrices and never inverts one, so
integers stay integers and rotations keep the norm.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import platform, wide
from jaxmodels.ops.engine.recurrence import Family, Method, Summary

# Blocks of this width or less are multiplied element by element. The last axis
# is then that of the blocks: two axes of 2 fill 4 of the 1,024 places of a
# TPU's tile, and a matrix product of them 4 of 16,384.
NARROW = 8


class Tokens(NamedTuple):
  """A chunk: A [C, M, M], b [C, M], padding [C], 1 at tokens of padding.

  Of narrow blocks, A is [C, M, M, G] and b [C, M, G].
  """

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
  """Linear recurrence with one matrix per token, `h_t = A_t h_{t-1} + b_t`.

  y is every state. With `block_diagonal`, A_t has G blocks [M, M] on its
  diagonal, and the op takes only the blocks: G recurrences of width M, at M / N
  of the work.

  "chunked" and "recurrent" compute one matrix-vector product per token, and
  their gradient stores A and y. "chunk_parallel", "associative" and
  `axis_name` multiply the matrices of a span: N times the work, or M times with
  blocks, for a scan of L / C + C steps.

  Cost: about 2 N^2 flops per token, chunked forward, or 2 G M^2 with blocks.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    A: [..., L, N, N], or [..., L, G, M, M] with `block_diagonal`; real or
      complex.
    b: [..., L, N], or [..., L, G, M] with `block_diagonal`.
    initial_state: [..., N], or [..., G, M].
    block_diagonal: whether A and b have an axis of blocks.
    chunk_size: 16 by default.

  Returns:
    every state, in the shape of b, and the last one.
  """
  run = _of_blocks(jnp.shape(b)[-1:]) if block_diagonal else OP
  return run(
    {"b": b, "A": A},
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _of_blocks(width):
  """The op of blocks of such a width. A CPU is faster with matrix products."""
  narrow = (0,) < width <= (NARROW,)
  return NARROW_BLOCKS if narrow and platform() != "cpu" else BLOCKS


def _recurrence(b, A):
  padding = jnp.zeros(b.shape[:-1], b.dtype)
  return Recurrence(FAMILY, Tokens(A, b, padding), choose("dense_recurrence"))


def _recurrence_of_narrow(b, A):
  A, b = jnp.moveaxis(A, 2, -1), _swap(b)
  padding = jnp.zeros(b.shape[:2], b.dtype)
  choice = choose("dense_recurrence")
  return Recurrence(NARROW_FAMILY, Tokens(A, b, padding), choice)


def _swap(x):
  return jnp.swapaxes(x, -1, -2)


def _segments(chunk, masks):
  """Summaries [C, ...] of single tokens; padding has the identity."""
  same = np.eye(chunk.A.shape[1], dtype=bool)
  same = np.expand_dims(same, (0, *range(3, chunk.A.ndim)))
  identity = jnp.where(same, jnp.ones_like(chunk.A), 0)
  padding = jnp.real(chunk.padding) > 0
  padding = jnp.expand_dims(padding, range(1, chunk.A.ndim))
  A = jnp.where(padding, identity, chunk.A)
  return Summary(masks.cut(A), chunk.b)


def _product(A, x):
  """`A x` at full precision: a TPU would round the factors to bfloat16."""
  return jnp.matmul(A, x, precision=lax.Precision.HIGHEST)


def _narrow_product(A, x):
  """`A x` of A [M, M, G] and x [M, G] or [M, M, G], as a sum over columns."""
  columns = A if x.ndim == 2 else A[:, :, None]
  return functools.reduce(
    operator.add, (columns[:, j] * x[j][None] for j in range(A.shape[1]))
  )


def zero(token):
  """A state of zeros, [M] or [M, G]."""
  return jnp.zeros(token.b.shape[1:], wide(token.A, token.b))


def _family(product: Callable[..., jax.Array]) -> Family:
  """The recurrence, given the product of a matrix with a matrix or state."""

  def summarize(chunk, masks):
    """Composes the summaries of the tokens in order."""
    summaries = _segments(chunk, masks)

    def body(earlier, later):
      return compose(earlier, later), None

    first = jax.tree.map(lambda x: x[0], summaries)
    rest = jax.tree.map(lambda x: x[1:], summaries)
    return lax.scan(body, first, rest)[0]

  def compose(earlier, later):
    """Composes two affine maps."""
    return Summary(
      product(later.transition, earlier.transition),
      advance(later, earlier.update),
    )

  def advance(summary, state):
    """`A h + b`."""
    return product(summary.transition, state) + summary.update

  def read(chunk, masks, state):
    """Every state of the chunk."""
    return read_and_advance(chunk, masks, state)[0]

  def read_and_advance(chunk, masks, state):
    """Takes one matrix-vector product per token."""

    def body(state, summary):
      state = advance(summary, state)
      return state, state

    last, y = lax.scan(body, state, _segments(chunk, masks))
    return y, last

  def tangent(chunk, change, before):
    """`dh_t = A_t dh_{t-1} + (dA_t h_{t-1} + db_t)`."""
    return chunk._replace(b=jax.vmap(product)(change.A, before) + change.b)

  return Family(
    summarize,
    compose,
    advance,
    read,
    read_and_advance,
    tangent=tangent,
    neutral=Tokens(0, 0, 1),
    zero=zero,
  )


FAMILY = _family(_product)
NARROW_FAMILY = _family(_narrow_product)
OP = Op(
  "dense_recurrence",
  _recurrence,
  {"b": "... L N", "A": "... L N N"},
  y="... L N",
  state="... N",
  heads=False,
  kind="complex",
  like="b",
)
BLOCKS = dataclasses.replace(
  OP,
  arguments={"b": "... L G M", "A": "... L G M M"},
  y="... L G M",
  state="... G M",
  heads=True,
)
NARROW_BLOCKS = dataclasses.replace(
  BLOCKS,
  recurrence=_recurrence_of_narrow,
  heads=False,
  enter=_swap,
  leave=_swap,
  outputs=_swap,
)
