"""Segment ids from boundaries, from resets, and after a cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops import segments
from jaxmodels.testing import relative_error
from tests.ops import draws

# Four documents in the first row, one of them empty, and two in the second.
# All pieces have 4 or 8 tokens, so that few programs are compiled.
BOUNDARIES = np.array([[0, 4, 4, 8, 12], [0, 2, 12, 12, 12]])
LENGTH = 12


def convolution(rng, length):
  return {
    "x": rng.standard_normal((2, length, 3)),
    "kernel": rng.standard_normal((4, 3)),
    "initial_state": rng.standard_normal((2, 3, 3)),
  }


def attention(rng, length):
  drawn = draws.qkv(rng, length)
  del drawn["initial_state"]
  return drawn


CASES = {
  "linear_attention": (
    ops.linear_attention,
    draws.linear_attention("key", bonus=True),
  ),
  "delta_rule": (ops.delta_rule, draws.delta_rule("key", gates=True)),
  "causal_convolution": (ops.causal_convolution, convolution),
  "attention": (functools.partial(ops.attention, window=4), attention),
}
WHOLE = ("bonus", "kernel")


@functools.cache
def prepared(name):
  """The op with arguments without a length, its sequences, and its state."""
  op, draw = CASES[name]
  drawn = jax.tree.map(np.float32, draw(np.random.default_rng(0), LENGTH))
  state = drawn.pop("initial_state", None)
  whole = {n: drawn.pop(n) for n in WHOLE if n in drawn}
  return jax.jit(functools.partial(op, **whole)), drawn, state


def cut(sequence, start, stop):
  return {name: x[:, start:stop] for name, x in sequence.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cuts", [(4,), (8,), (4, 8)])
def test_a_packed_sequence_continues_after_a_cut(name, cuts):
  """The cut is between documents; in the second row, inside one, and twice."""
  op, sequence, state = prepared(name)
  ids = segments.from_cu_seqlens(BOUNDARIES, LENGTH)
  y, last = op(**sequence, initial_state=state, segment_ids=ids)
  pieces = []
  for start, stop in zip((0, *cuts), (*cuts, LENGTH), strict=True):
    rest = ids[:, start:stop]
    if start:
      rest = segments.continue_ids(rest, ids[:, start - 1])
    piece, state = op(
      **cut(sequence, start, stop), initial_state=state, segment_ids=rest
    )
    pieces.append(piece)
  assert relative_error(jnp.concatenate(pieces, 1), y) < 1e-6
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(last), strict=True):
    if a.dtype != bool:
      assert relative_error(a, b) < 1e-6


def test_packed_documents_equal_separate_documents():
  op, sequence, state = prepared("delta_rule")
  ids = segments.from_cu_seqlens(BOUNDARIES[0, :-1], LENGTH)
  packed, _ = op(
    **sequence, initial_state=state, segment_ids=jnp.stack([ids, ids])
  )
  for start in (0, 4, 8):  # The last segment is padding.
    entering = 0 * state if start else state
    alone, _ = op(**cut(sequence, start, start + 4), initial_state=entering)
    assert relative_error(packed[:, start : start + 4], alone) < 1e-6


def test_boundaries_give_ids_to_documents_and_padding():
  find = jax.jit(segments.from_cu_seqlens, static_argnums=1)
  ids = find(jnp.array([0, 2, 2, 5]), 7)
  np.testing.assert_array_equal(ids, [0, 0, 2, 2, 2, 3, 3])
  # Repeated boundaries that fill the array make no segments.
  filled = find(jnp.array([0, 2, 5, 5, 5]), 5)
  np.testing.assert_array_equal(filled, [0, 0, 1, 1, 1])
  rows = find(jnp.array([[0, 1, 4], [0, 3, 4]]), 4)
  np.testing.assert_array_equal(rows, [[0, 1, 1, 1], [0, 0, 0, 1]])
  assert ids.dtype == filled.dtype == rows.dtype == jnp.int32


@pytest.mark.parametrize("first", [False, True])
def test_a_reset_drops_the_state(first):
  op, sequence, state = prepared("linear_attention")
  resets = np.zeros((2, LENGTH), bool)
  resets[0, [4, 5]], resets[:, 0] = True, first
  packed, last = op(
    **sequence, initial_state=state, segment_ids=segments.from_resets(resets)
  )
  pieces, entering = [], state
  for t in range(LENGTH):
    kept = np.where(resets[:, t, None, None, None], 0, entering)
    y, entering = op(**cut(sequence, t, t + 1), initial_state=kept)
    pieces.append(y)
  assert relative_error(packed, jnp.concatenate(pieces, 1)) < 1e-6
  assert relative_error(last, entering) < 1e-6


def test_continued_ids_are_equal_where_the_ids_are():
  """Also for unsigned ids, and for ids at the ends of their range."""
  ids = np.array([[3, 3, 250, 4]], np.uint8)
  rest = segments.continue_ids(ids[:, 1:], ids[:, 0])
  assert rest[0, 0] == 0 and len(set(np.asarray(rest[0]).tolist())) == 3
