"""Families whose spans do not compose: a nonlinear cell, a learning memory.

They have the forms "recurrent" and "chunked", and say why they have no others.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxmodels.ops import make_op, reference
from jaxmodels.ops.engine.cells import from_cell
from jaxmodels.ops.engine.recurrence import Family
from jaxmodels.testing import check_op, relative_error

BATCH, HEADS, WIDTH = 2, 2, 3
FORMS = ("recurrent", "chunked")


class Tokens(NamedTuple):
  x: jax.Array
  gate: jax.Array


def cell(W):
  """`h_t = gate_t tanh(W h_{t-1} + x_t) + (1 - gate_t) h_{t-1}`."""

  def step(token, h):
    new = jnp.tanh(W @ h + token.x)
    h = token.gate * new + (1 - token.gate) * h
    return h, h

  return from_cell(step, zero=lambda token: jnp.full_like(token.x, 0.5))


rnn = make_op(
  "rnn",
  cell,
  Tokens,
  letters={"x": "... L H N", "gate": "... L H", "W": "N N"},
  y="... L H N",
  state="... H N",
  like="x",
)
compiled = jax.jit(rnn, static_argnames=("method", "chunk_size"))


def definition(x, gate, W, initial_state, *, segment_ids, reverse):
  def step(h, token):
    x, gate = token
    new = jnp.tanh(jnp.einsum("ij,bhj->bhi", W, h) + x)
    h = gate[..., None] * new + (1 - gate[..., None]) * h
    return h, h

  # Each segment starts from the initial state of the cell.
  tokens = x, gate
  return reference.step_through(
    step,
    initial_state,
    tokens,
    segment_ids,
    reverse,
    empty=0.5,
  )


def draw(rng, length):
  shape = (BATCH, length, HEADS)
  return {
    "x": rng.standard_normal((*shape, WIDTH)),
    "gate": rng.uniform(0, 1, shape),
    "W": rng.standard_normal((WIDTH, WIDTH)),
    "initial_state": rng.standard_normal((BATCH, HEADS, WIDTH)),
  }


def drawn(length, **left_out):
  given = draw(np.random.default_rng(0), length)
  given |= left_out
  return {
    k: None if x is None else np.asarray(x, np.float32)
    for k, x in given.items()
  }


@pytest.mark.parametrize(
  "reverse", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_nonlinear_cell_equals_its_definition(reverse):
  """With lengths that are multiples of the chunk size 4, and others."""
  check_op(
    rnn,
    definition,
    draw,
    forms=FORMS,
    lengths=(3, 11),
    chunk_size=4,
    whole=("W",),
    reverse=reverse,
  )


def test_a_cell_takes_batch_axes_and_sets_the_dtype_of_y():
  given = drawn(6, initial_state=None)
  y, state = map(np.asarray, compiled(**given))
  assert y.shape == (BATCH, 6, HEADS, WIDTH)
  one = {k: x if x is None or k == "W" else x[0] for k, x in given.items()}
  alone, last = compiled(**one)
  np.testing.assert_allclose(alone, y[0], rtol=1e-6)
  np.testing.assert_allclose(last, state[0], rtol=1e-6)
  more = {
    k: x if x is None or k == "W" else x[:, None] for k, x in given.items()
  }
  several, states = compiled(**more)
  np.testing.assert_array_equal(several, y[:, None])
  np.testing.assert_array_equal(states, state[:, None])
  narrow = {
    k: x if x is None else x.astype(jnp.bfloat16) for k, x in given.items()
  }
  y, state = compiled(**narrow)
  assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)


def test_the_default_initial_state_is_that_of_the_cell():
  given = drawn(9, initial_state=None)
  half = np.full((BATCH, HEADS, WIDTH), 0.5, np.float32)
  started = given | {"initial_state": half}
  for left, right in zip(compiled(**given), compiled(**started), strict=True):
    np.testing.assert_array_equal(left, right)


def test_a_cell_continues_after_any_cut_and_decodes():
  given = drawn(9)
  y, final = compiled(**given, chunk_size=4)
  state, W, steps = given.pop("initial_state"), given.pop("W"), []
  for t in range(9):
    token = {k: x[:, t : t + 1] for k, x in given.items()}
    step, state = compiled(**token, W=W, initial_state=state)
    steps.append(step)
  assert relative_error(np.concatenate(steps, 1), y) < 1e-6
  assert relative_error(state, final) < 1e-6


@pytest.mark.parametrize("method", ["associative", "chunk_parallel", "pallas"])
def test_other_forms_raise_an_error_with_the_reason(method):
  words = "method" if method != "pallas" else "has no kernel"
  with pytest.raises(ValueError, match=f"rnn: .*{words}"):
    rnn(**drawn(5), method=method)


def test_a_sharded_sequence_raises_an_error_with_the_reason():
  words = "axis_name must be None, got 'sequence': its family has no summaries"
  with pytest.raises(ValueError, match=words):
    rnn(**drawn(5), axis_name="sequence")


def test_a_cell_exports_with_a_symbolic_length():
  (length,) = export.symbolic_shape("length")
  given = drawn(7)
  shapes = {
    k: jax.ShapeDtypeStruct(
      tuple(length if n == 7 else n for n in x.shape), x.dtype
    )
    for k, x in given.items()
  }
  function = jax.jit(lambda given: rnn(**given))
  exported = export.export(function)(shapes)
  for left, right in zip(exported.call(given), function(given), strict=True):
    assert relative_error(left, right) < 1e-6
  with pytest.raises(
    ValueError, match='"chunked" needs the number L of tokens'
  ):
    chunked = jax.jit(lambda given: rnn(**given, method="chunked"))
    export.export(chunked)(shapes)


def learn(rate):
  """A memory that learns by one gradient step per chunk.

  `W <- W - rate sum_j (W k_j - v_j) k_j^T`, and a token reads the W from the
  start of its chunk. So the chunk size changes the result.
  """

  def read_and_advance(chunk, masks, W):
    kept = jnp.where(masks.exit[:, None], chunk.k @ W.T - chunk.v, 0)
    W = jnp.where(masks.through, W, 0)
    return chunk.q @ W.T, W - rate * kept.T @ chunk.k

  class Keys(NamedTuple):
    q: jax.Array
    k: jax.Array
    v: jax.Array

  def zero(token):
    return jnp.zeros((token.v.shape[1], token.k.shape[1]))

  family = Family(read_and_advance=read_and_advance, zero=zero, neutral=None)
  return make_op("learn", family, Keys)


def test_the_last_chunk_of_a_learning_memory_may_be_shorter():
  q, k, v = np.random.default_rng(1).standard_normal((3, 1, 10, 1, 4))
  memory = functools.partial(learn(0.1), method="chunked", chunk_size=4)
  y, last = map(np.asarray, jax.jit(memory)(q, k, v))
  W, read = np.zeros((4, 4)), []
  for chunk in (slice(0, 4), slice(4, 8), slice(8, 10)):
    keys, values = k[0, chunk, 0], v[0, chunk, 0]
    read.append(q[0, chunk, 0] @ W.T)
    W = W - 0.1 * (keys @ W.T - values).T @ keys
  assert relative_error(y[0, :, 0], np.concatenate(read)) < 1e-5
  assert relative_error(last[0, 0], W) < 1e-5


@functools.cache
def gradient(method):
  given = drawn(1024)

  def loss(given):
    return jnp.sum(rnn(**given, method=method, chunk_size=32)[0] ** 2)

  return jax.jit(jax.grad(loss)).lower(given).compile()


def test_chunks_store_fewer_states_for_a_gradient():
  memory = {
    method: gradient(method).memory_analysis().temp_size_in_bytes
    for method in FORMS
  }
  assert memory["chunked"] < 0.6 * memory["recurrent"]
