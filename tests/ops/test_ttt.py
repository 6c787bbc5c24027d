"""TTT-linear: its dual form, and the delta rule as a special case."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples import OPS

LENGTH = 29


def drawn(*left_out):
  given = OPS["ttt_linear"].arguments(LENGTH)
  given = {name: x for name, x in given.items() if name not in left_out}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given)


@pytest.mark.parametrize("chunk_size", [4, 8, 16])
def test_the_dual_form_is_the_loop_over_tokens(chunk_size):
  """Mini-batches of 8, in chunks of a half, one and two of them."""
  for left_out in ((), ("initial_state",)):
    given = drawn(*left_out)
    run = functools.partial(ops.ttt_linear, mini_batch=8)
    dual = functools.partial(run, method="chunked", chunk_size=chunk_size)
    loop = functools.partial(run, method="recurrent")
    y, last = jax.jit(dual)(**given)
    wanted, state = jax.jit(loop)(**given)
    assert relative_error(y, wanted) < 2e-5
    for got, expected in zip(last, state, strict=True):
      assert relative_error(got, expected) < 2e-5


def test_mini_batches_of_one_without_a_norm_are_the_delta_rule():
  given = drawn("norm_scale", "norm_bias", "initial_state")
  y, last = jax.jit(functools.partial(ops.ttt_linear, mini_batch=1))(**given)
  weight = given.pop("weight")[None]
  start = jnp.repeat(weight, 2, 0)
  beta = given.pop("rate")
  wanted, state = jax.jit(ops.delta_rule)(
    **given, beta=beta, initial_state=start
  )
  assert relative_error(y, wanted) < 2e-5
  assert relative_error(weight + last.weight, state) < 2e-5


def test_larger_mini_batches_are_another_rule():
  given = drawn("initial_state")
  one, many = (
    jax.jit(functools.partial(ops.ttt_linear, mini_batch=size))(**given)[0]
    for size in (1, 8)
  )
  assert relative_error(many[:, :1], one[:, :1]) < 2e-5
  assert relative_error(many, one) > 1e-2


def test_a_cut_sequence_and_no_batch_axis():
  given = drawn("initial_state")
  run = jax.jit(functools.partial(ops.ttt_linear, mini_batch=8))
  wanted, last = run(**given)
  whole = OPS["ttt_linear"].whole
  fixed = {name: given.pop(name) for name in whole}
  first = {name: x[1, :13] for name, x in given.items()}
  rest = {name: x[1, 13:] for name, x in given.items()}
  y, state = run(**first, **fixed)
  later, final = run(**rest, **fixed, initial_state=state)
  assert relative_error(jnp.concatenate([y, later]), wanted[1]) < 2e-5
  for got, expected in zip(final, last, strict=True):
    assert relative_error(got, expected[1]) < 2e-5


def test_wrong_arguments_are_named():
  given = drawn("initial_state")
  for wrong, words in [
    ({"mini_batch": 0}, "mini_batch must be an integer of at least 1, got 0"),
    ({"weight": given["weight"][:1]}, "weight must be"),
    ({"norm_scale": None}, "norm_bias is used with norm_scale only"),
    (
      {"method": "associative"},
      "method must be one of auto, recurrent, chunked",
    ),
    ({"axis_name": "s"}, "its sequence cannot be sharded"),
    ({"initial_state": np.zeros(3)}, r"TTT\(weight, step, tokens\)"),
  ]:
    with pytest.raises(ValueError, match=words):
      ops.ttt_linear(**{**given, **wrong})
