"""`make_op` makes an op from a family of the user."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.ops.engine.make_op import make_op
from jaxmodels.ops.engine.recurrence import Family, Summary
from jaxmodels.ops.linear_attention import FAMILY
from jaxmodels.ops.linear_attention import Tokens as LinearTokens
from jaxmodels.testing import check_op
from tests.ops import draws

BATCH, HEADS = 2, 3


class Tokens(NamedTuple):
  value: jax.Array
  weight: jax.Array


def summarize(chunk, masks):
  joined = jnp.where(masks.exit, chunk.weight, 0)
  total = {"sum": joined @ chunk.value, "weight": jnp.sum(joined)}
  return Summary(jnp.where(masks.through, jnp.float32(1), 0), total)


def compose(earlier, later):
  return Summary(
    later.transition * earlier.transition, advance(later, earlier.update)
  )


def advance(summary, state):
  def keep(s, u):
    return summary.transition.astype(s.dtype) * s + u

  return jax.tree.map(keep, state, summary.update)


def read(chunk, masks, state):
  pair = jnp.where(masks.pair, chunk.weight[None, :], 0)
  held = jax.tree.map(
    lambda s: jnp.where(masks.entry[:, None], s.reshape(1, -1), 0), state
  )
  total = pair @ chunk.value + held["sum"]
  return total / (jnp.sum(pair, axis=1, keepdims=True) + held["weight"])


average = make_op("average", Family(summarize, compose, advance, read), Tokens)


def definition(value, weight, initial_state, *, segment_ids, reverse):
  """The weighted mean of a document up to each token; its state is a dict."""

  def step(state, token):
    state = {
      "sum": state["sum"] + token.weight[..., None] * token.value,
      "weight": state["weight"] + token.weight,
    }
    return state, state["sum"] / state["weight"][..., None]

  return reference.step_through(
    step, initial_state, Tokens(value, weight), segment_ids, reverse
  )


def draw(rng, length):
  return {
    "value": rng.standard_normal((BATCH, length, HEADS, 4)),
    "weight": rng.uniform(0.5, 1, (BATCH, length, HEADS)),
    "initial_state": {
      "sum": rng.standard_normal((BATCH, HEADS, 4)),
      "weight": rng.uniform(0.5, 1, (BATCH, HEADS)),
    },
  }


@pytest.mark.slow
def test_every_form_of_a_nonlinear_read_with_a_state_of_two_arrays():
  check_op(average, definition, draw, lengths=(11,), chunk_size=4)


def test_reverse_equals_the_definition():
  options = {"forms": ("chunked",), "lengths": (11,), "chunk_size": 4}
  check_op(average, definition, draw, reverse=True, **options)


def test_the_op_equals_the_op_of_the_library_with_the_same_family():
  class Undecayed(NamedTuple):
    q: jax.Array
    k: jax.Array
    v: jax.Array
    log_decay: None = None

  op = make_op("linear_attention", FAMILY, Undecayed)
  q, k, v = np.random.default_rng(0).standard_normal((3, 2, 21, 3, 4))
  q, k, v = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
  expected = ops.linear_attention(q, k, v)
  np.testing.assert_array_equal(op(q, k, v=v)[0], expected[0])
  np.testing.assert_array_equal(op(q, k, v)[1], expected[1])


def read_before(chunk, masks, state):
  """Reads the state before each token is written."""
  own = jnp.sum(chunk.q * chunk.k, axis=1, keepdims=True) * chunk.v
  return FAMILY.read(chunk, masks, state) - own


def define_before(q, k, v, log_decay, initial_state, *, segment_ids, reverse):
  def step(S, token):
    q, k, v, log_decay = token
    S = jnp.exp(log_decay)[..., None, None] * S
    y = jnp.einsum("bhk,bhkv->bhv", q, S)
    return S + k[..., :, None] * v[..., None, :], y

  tokens = q, k, v, log_decay
  return reference.step_through(
    step, initial_state, tokens, segment_ids, reverse
  )


def check_before(family, forms):
  op = make_op("before", family, LinearTokens)

  def per_head(log_decay, **arguments):
    return op(log_decay=log_decay[..., None], **arguments)

  options = {"lengths": (11,), "chunk_size": 4, "resets": ("inside a chunk",)}
  drawn = draws.linear_attention("head")
  check_op(per_head, define_before, drawn, forms=forms, **options)


def test_replacing_a_function_drops_the_cheaper_ways():
  ways = ("read_and_advance", "step", "tangent", "kernel")
  full = FAMILY._replace(read_and_advance=min, step=max, tangent=sum)
  for name in ("summarize", "advance", "read"):
    changed = full._replace(**{name: abs})
    assert isinstance(changed, Family) and getattr(changed, name) is abs
    assert [getattr(changed, way) for way in ways] == [None] * 4
    assert full._replace(**{name: abs, "step": min}).step is min
    assert full.__replace__(**{name: abs}).step is None
  assert full._replace(compose=abs, neutral=1).step is max
  check_before(FAMILY._replace(read=read_before), ("recurrent", "chunked"))


def test_the_error_names_a_cheaper_way_that_is_kept():
  four = FAMILY.summarize, FAMILY.compose, FAMILY.advance, read_before
  words = "recurrent: step, read_and_advance or kernel disagrees with read and"
  with pytest.raises(AssertionError, match=words):
    check_before(Family(*four, step=FAMILY.step), ("recurrent", "associative"))


def test_the_error_names_a_log_decay_above_zero():
  """A sigmoid passed without its logarithm, as an argument or inside the op."""

  def draw(rng, length):
    drawn = draws.linear_attention("head")(rng, length)
    return drawn | {"log_decay": 1 / (1 + np.exp(drawn["log_decay"]))}

  def own(log_decay, **arguments):
    return before(log_decay=jax.nn.sigmoid(log_decay)[..., None], **arguments)

  before = make_op("linear_attention", FAMILY, LinearTokens)
  words = "^linear_attention: log_decay must be at most 0: the draw of length"
  for op, drawn in (
    (ops.linear_attention, draw),
    (own, draws.linear_attention("head")),
  ):
    with pytest.raises(AssertionError, match=words):
      check_op(op, reference.linear_attention, drawn, lengths=(11,))


@pytest.mark.parametrize("length", [0, 5])
def test_the_default_state_is_zero_in_float32(length):
  arguments = draw(np.random.default_rng(0), length)
  arguments.pop("initial_state")
  arguments = {k: jnp.asarray(x, jnp.bfloat16) for k, x in arguments.items()}
  y, state = average(**arguments)
  zero = {"sum": jnp.zeros((2, 3, 4)), "weight": jnp.zeros((2, 3))}
  again, last = average(**arguments, initial_state=zero)
  assert y.shape == (BATCH, length, HEADS, 4) and y.dtype == jnp.float32
  assert jax.tree.all(jax.tree.map(lambda x: x.dtype == jnp.float32, state))
  np.testing.assert_array_equal(y, again)
  jax.tree.map(np.testing.assert_array_equal, state, last)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"weight": np.ones((2, 5))}, "average: weight must be .*got shape"),
    ({"weight": np.ones((2, 4, 3))}, "average: weight must be .*got shape"),
    ({"initial_state": np.ones((2, 3))}, "average: initial_state must be"),
    (
      {"initial_state": {"sum": np.ones((2, 3, 5)), "weight": np.ones((2, 3))}},
      "average: initial_state must be .*got shape",
    ),
    ({"segment_ids": np.ones((2, 4), int)}, "average: segment_ids must be"),
    ({"method": "fast"}, "average: method must be one of"),
    ({"chunk_size": 12}, "average: chunk_size must be a power of two"),
  ],
)
def test_the_error_names_a_wrong_argument(change, words):
  with pytest.raises(ValueError, match=words):
    average(**draw(np.random.default_rng(0), 5) | change)
