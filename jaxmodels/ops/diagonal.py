"""Diagonal recurrence: `h_t = a_t * h_{t-1} + b_t`, real or complex.

The recurrence of S5 (Smith et al. 2022, arXiv:2208.04933), the LRU (Orvieto
et al. 2023, arXiv:2303.06349), RG-LRU (De et al. 2024, arXiv:2402.19427) and
of every gated linear RNN.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method, Summary


class Tokens(NamedTuple):
  """A chunk: a, b [C, N]."""

  a: Any
  b: Any


class Terms(NamedTuple):
  """A chunk of a sum: b [C, N]."""

  b: Any


def diagonal_recurrence(
  a: jax.Array | None,
  b: jax.Array,
  initial_state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Elementwise linear recurrence, `h_t = a_t * h_{t-1} + b_t`.

  y is every state. There is no axis of heads: "..." stands for channels.
  Without a, y is the sum of b so far; on a TPU or a GPU, that is one product
  with a triangle of ones per chunk, at the highest precision.

  Cost: about 12 flops per element of b, chunked forward, or 44 if complex. The
  recurrence itself ("recurrent") takes 2 or 8 of them; a scan of depth log C
  takes the rest.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    a: [B, L, ...] real (of any sign, zero too) or complex; None for ones.
    b: [B, L, ...] like a.
    initial_state: [B, ...].
    chunk_size: 128 by default.

  Returns:
    every state [B, L, ...], and the last one [B, ...].
  """
  return OP(
    {"b": b, "a": a},
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _recurrence(b, a):
  choice = choose("diagonal_recurrence")
  if a is None:
    return Recurrence(SUM, Terms(b), choice)
  return Recurrence(FAMILY, Tokens(a, b), choice)


def _prefix(chunk, masks):
  """Summaries [C, ...] of the chunk's first 1, 2, ..., C tokens."""
  return lax.associative_scan(compose, Summary(masks.cut(chunk.a), chunk.b))


def summarize(chunk, masks):
  """The summary of the first C tokens is that of the chunk."""
  return jax.tree.map(lambda x: x[-1], _prefix(chunk, masks))


def compose(earlier, later):
  """Composes two affine maps, elementwise."""
  return Summary(
    later.transition * earlier.transition, advance(later, earlier.update)
  )


def advance(summary, state):
  """`a h + b`."""
  return summary.transition * state + summary.update


def read(chunk, masks, state):
  """Every state of the chunk."""
  return advance(_prefix(chunk, masks), state[None])


def read_and_advance(chunk, masks, state):
  """The last state of the chunk is also its last output."""
  y = read(chunk, masks, state)
  return y, y[-1]


def tangent(chunk, change, before):
  """`dh_t = a_t dh_{t-1} + (da_t h_{t-1} + db_t)`."""
  return Tokens(chunk.a, change.a * before + change.b)


def zero(token):
  """A state of zeros [N]."""
  return jnp.zeros(token.b.shape[1:], wide(*jax.tree.leaves(token)))


def summarize_sum(chunk, masks):
  """The sum of the terms in the last token's segment."""
  through = jnp.asarray(masks.through, chunk.b.dtype)
  return Summary(through, _sums(masks.exit[None], chunk.b)[0])


def read_sum(chunk, masks, state):
  """Every sum of the chunk."""
  entry = jnp.expand_dims(masks.entry, range(1, chunk.b.ndim))
  return _sums(masks.pair, chunk.b) + jnp.where(entry, state[None], 0)


def read_and_advance_sum(chunk, masks, state):
  """The last sum of the chunk is also its last output."""
  y = read_sum(chunk, masks, state)
  return y, y[-1]


def _sums(joined, b):
  """Sums of b [C, ...] by a mask [..., C]; a TPU would round b to bfloat16."""
  joined = jnp.asarray(joined, b.dtype)
  return jnp.tensordot(joined, b, 1, precision=lax.Precision.HIGHEST)


FAMILY = Family(
  summarize,
  compose,
  advance,
  read,
  read_and_advance,
  tangent=tangent,
  neutral=Tokens(1, 0),
  zero=zero,
)
SUM = Family(
  summarize_sum,
  compose,
  advance,
  read_sum,
  read_and_advance_sum,
  neutral=Terms(0),
  linear=True,
  zero=zero,
)
OP = Op(
  "diagonal_recurrence",
  _recurrence,
  {"b": "B L ...", "a": "B L ..."},
  y="B L ...",
  state="B ...",
  heads=False,
  kind="complex",
  like="b",
)
