"""Exported once for any batch and any length, saved, loaded and called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxmodels import ops
from jaxmodels.testing import relative_error, tolerance
from tests.ops import draws

BATCHES, LENGTH, LENGTHS = (1, 3), 6, (1, 6)
LATE = ("kalman_smoother", "signature")
FORMS = ("auto", "recurrent", "associative", "chunked", "chunk_parallel")


def convolution(rng, length):
  return {
    "x": rng.standard_normal((2, length, 4)),
    "kernel": rng.standard_normal((3, 4)),
    "initial_state": rng.standard_normal((2, 2, 4)),
  }


def long_convolution(rng, length):
  drawn = convolution(rng, length)
  del drawn["initial_state"]
  return drawn


def both_ways(rng, length):
  drawn = draws.linear_attention("head")(rng, length)
  del drawn["initial_state"]
  return drawn


def attention(past):
  def draw(rng, length):
    keys = (2, length, 2, 4)
    cache = (2, past, 2, 4)
    return {
      "q": rng.standard_normal((2, length, 4, 4)),
      "k": rng.standard_normal(keys),
      "v": rng.standard_normal(keys),
      "initial_state": ops.Cache(
        rng.standard_normal(cache),
        rng.standard_normal(cache),
        np.ones(cache[:2], bool),
      ),
    }

  return draw


def kalman(rng, length):
  return {
    "y": rng.standard_normal((2, length, 1)),
    "F": 0.9 * np.eye(2),
    "Q": 0.3 * np.eye(2),
    "H": rng.standard_normal((1, 2)),
    "R": np.eye(1),
    "mean": np.zeros(2),
    "covariance": np.eye(2),
  }


def log_linear(rng, length):
  """The state counts tokens, in integers."""
  drawn = draws.log_linear("head", delta=True)(rng, length)
  levels = drawn.pop("initial_state")
  return drawn | {"initial_state": ops.LogLinear(levels, np.full(2, 5))}


# Draws, options, and the forms beside "auto" that take any length or a fixed
# one.
CASES = {
  "linear_attention": (draws.linear_attention("head"), {}, FORMS),
  "linear_attention, bonus": (
    draws.linear_attention("key", bonus=True),
    {},
    FORMS,
  ),
  "delta_rule": (draws.delta_rule("key"), {}, FORMS),
  "delta_rule, gates": (draws.delta_rule("key", gates=True), {}, FORMS),
  "diagonal_recurrence": (draws.diagonal(), {}, FORMS),
  "dplr_recurrence": (draws.dplr("key"), {}, FORMS),
  "dense_recurrence": (draws.dense(), {}, FORMS),
  "signature": (draws.signature, {}, FORMS),
  "householder_product": (draws.householder("head"), {}, FORMS),
  "normalized_linear_attention": (draws.normalized(gates=True), {}, FORMS),
  "selective_scan": (draws.selective_scan, {}, FORMS),
  "log_linear_attention": (log_linear, {}, FORMS),
  "mesa": (draws.mesa, {"steps": 8}, FORMS),
  # The mini-batch is that of the drawn states.
  "ttt_linear": (draws.ttt, {"mini_batch": 8}, ("auto", "recurrent")),
  "state_space": (draws.state_space(), {}, FORMS),
  "bidirectional": (both_ways, {}, (*FORMS, "quadratic")),
  "causal_convolution": (convolution, {}, ("auto", "recurrent")),
  "long_convolution": (long_convolution, {}, (None,)),
  "attention": (
    attention(past=3),
    {},
    ("auto", "recurrent", "chunked", "quadratic"),
  ),
  "attention, window": (
    attention(past=2),
    {"window": 3},
    ("auto", "recurrent", "chunked", "quadratic"),
  ),
  "kalman_filter": (
    kalman,
    {},
    ("auto", "recurrent", "associative", "chunk_parallel"),
  ),
  "kalman_smoother": (
    kalman,
    {},
    ("auto", "recurrent", "associative", "chunk_parallel"),
  ),
}
# Arguments that have neither a batch axis nor, but for `initial_state`, L.
WHOLE = (
  *("A", "D", "bonus", "kernel", "weight", "norm_scale", "norm_bias"),
  *("F", "Q", "H", "R", "mean", "covariance"),
)
# The forms that need the number of tokens.
FIXED = {
  "kalman_filter": ("associative", "chunk_parallel"),
  "kalman_smoother": ("associative", "chunk_parallel"),
  "long_convolution": (None,),
}


def is_whole(case, name):
  if case == "state_space" and name in ("A", "B", "C"):
    return True
  return name in WHOLE and case != "dense_recurrence"


def program(case, method):
  """The op as a function of a dict, with a batch axis."""
  op = case.partition(",")[0]
  _, options, _ = CASES[case]
  options = options if method is None else options | {"method": method}
  if op not in ("long_convolution", "kalman_filter", "kalman_smoother"):
    options = options | {"chunk_size": 4} if method is not None else options
  function = functools.partial(getattr(ops, op), **options)

  def run(arguments):
    if not op.startswith("kalman"):
      return function(**arguments)
    shared = {n: x for n, x in arguments.items() if n != "y"}
    return jax.vmap(lambda y: function(y, **shared))(arguments["y"])

  return run


def drawn(case, batch, length):
  """Arguments in float32, of that many rows."""
  draw, _, _ = CASES[case]
  arguments = draw(np.random.default_rng(batch), length)

  def fit(x):
    kind = x.dtype if x.dtype == bool else np.float32
    x = x.astype(np.int32 if x.dtype == int else kind)
    return np.concatenate([x, 0.5 * x if x.dtype == np.float32 else x])[:batch]

  return {
    name: np.float32(x) if is_whole(case, name) else jax.tree.map(fit, x)
    for name, x in arguments.items()
  }


def symbolic(case, arguments, batch, length):
  """Their shapes, with these in the place of the sizes."""

  def of(name, x):
    if is_whole(case, name):
      return jax.ShapeDtypeStruct(x.shape, x.dtype)
    rest = x.shape[1:] if name == "initial_state" else (length, *x.shape[2:])
    return jax.ShapeDtypeStruct((batch, *rest), x.dtype)

  return {
    name: jax.tree.map(functools.partial(of, name), x)
    for name, x in arguments.items()
  }


def loaded(function, *arguments, vjp_order=0):
  """The function exported, saved and loaded again."""
  exported = export.export(jax.jit(function))(*arguments)
  return export.deserialize(exported.serialize(vjp_order))


def assert_equal(got, wanted):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert relative_error(a, b) < tolerance(np.float32)


def check(function, case, lengths, adapt=lambda arguments: arguments):
  batch, length = export.symbolic_shape("b, l")
  length = length if len(lengths) > 1 else lengths[0]
  example = adapt(drawn(case, 2, lengths[-1]))
  exported = loaded(function, symbolic(case, example, batch, length))
  direct = jax.jit(function)
  for rows in BATCHES:
    for tokens in lengths:
      arguments = adapt(drawn(case, rows, tokens))
      assert_equal(exported.call(arguments), direct(arguments))


@pytest.mark.parametrize(
  "case",
  [
    # As `kalman_filter` and `dense_recurrence`, and they take as long.
    pytest.param(x, marks=pytest.mark.slow if x in LATE else ())
    for x in CASES
  ],
)
def test_any_batch(case):
  """The form that the op chooses itself, with a fixed length."""
  method = CASES[case][2][0]
  check(program(case, method), case, (LENGTH,))


FORMS_OF_ALL = [(case, form) for case in CASES for form in CASES[case][2]]


def needs_length(case, method):
  if case.startswith("attention"):
    return False
  return method in FIXED.get(case, ("associative", "quadratic"))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("case", "method"), [pair for pair in FORMS_OF_ALL if needs_length(*pair)]
)
def test_any_batch_in_a_form_that_needs_the_length(case, method):
  check(program(case, method), case, (LENGTH,))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("case", "method"),
  [
    # The forms of "auto" for a symbolic length on a CPU and elsewhere.
    pytest.param(
      *pair,
      marks=() if pair[1] in ("auto", "chunked") else pytest.mark.exhaustive,
    )
    for pair in FORMS_OF_ALL
    if not needs_length(*pair)
  ],
)
def test_any_batch_and_length(case, method):
  check(program(case, method), case, LENGTHS)


@pytest.mark.parametrize(
  ("case", "method"), [pair for pair in FORMS_OF_ALL if needs_length(*pair)]
)
def test_a_form_that_needs_the_length_says_so(case, method):
  batch, length = export.symbolic_shape("b, l")
  arguments = symbolic(case, drawn(case, 2, LENGTH), batch, length)
  op, named = case.partition(",")[0], method or "FFT"
  message = f"{op}: .*{named}.*symbolic length l; .* use "
  with pytest.raises(ValueError, match=message):
    export.export(jax.jit(program(case, method)))(arguments)


def with_ids(arguments):
  """A new document at the fourth token."""
  state = jax.tree.leaves(arguments["v"])[0]
  ids = np.arange(state.shape[1], dtype=np.int32) // 3
  return arguments | {"segment_ids": np.tile(ids, (len(state), 1))}


def from_nothing(arguments):
  return {n: x for n, x in arguments.items() if n != "initial_state"}


@pytest.mark.slow
@pytest.mark.parametrize(
  "case", ["linear_attention", "delta_rule", "attention", "attention, window"]
)
@pytest.mark.parametrize("adapt", [with_ids, from_nothing])
@pytest.mark.parametrize("method", ["auto", "chunked"])
def test_packed_or_without_a_state(case, adapt, method):
  check(program(case, method), case, LENGTHS, adapt)


@pytest.mark.slow
@pytest.mark.parametrize(
  "case", ["linear_attention", "diagonal_recurrence", "causal_convolution"]
)
def test_the_gradient_of_what_was_loaded(case):
  """`vjp_order=1` keeps a gradient, of any batch too."""
  (batch,) = export.symbolic_shape("b")
  function = program(case, "auto")
  example = drawn(case, 2, LENGTH)
  shapes = symbolic(case, example, batch, LENGTH)
  exported = loaded(function, shapes, vjp_order=1)

  def gradient(function):
    def loss(arguments):
      y, state = function(arguments)
      return jnp.sum(jnp.sin(y)) + jnp.sum(state**2)

    return jax.jit(jax.grad(loss))

  for rows in BATCHES:
    arguments = drawn(case, rows, LENGTH)
    assert_equal(
      gradient(exported.call)(arguments), gradient(function)(arguments)
    )
