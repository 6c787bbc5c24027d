"""Householder products: the delta rule when M = 1, permutations when more."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.testing import relative_error
from tests.ops import draws
from tests.ops.compiled import compiled

LENGTH = 21


def drawn(decay, steps):
  draw = draws.householder(decay, sizes={"steps": steps})
  arguments = draw(np.random.default_rng(0), LENGTH)
  return {k: jnp.asarray(x, jnp.float32) for k, x in arguments.items()}


@pytest.mark.parametrize("decay", [None, "head", "key"])
def test_one_step_is_the_delta_rule(decay):
  arguments = drawn(decay, steps=1)
  y, last = compiled("householder_product")(**arguments)
  for name in ("k", "v", "beta"):
    arguments[name] = arguments[name][:, :, 0]
  y_delta, last_delta = compiled("delta_rule")(**arguments)
  np.testing.assert_array_equal(y, y_delta)
  np.testing.assert_array_equal(last, last_delta)


@pytest.mark.slow
def test_three_steps_in_reverse_with_key_decay():
  """Tokens turn, the steps of a token do not."""
  arguments = drawn("key", steps=3)
  ids = jnp.cumsum(jnp.zeros((2, LENGTH), jnp.int32).at[:, 10].set(1), axis=1)
  options = {"segment_ids": ids, "reverse": True}
  y, last = compiled("householder_product")(**arguments, **options)
  wanted, wanted_last = reference.householder_product(**arguments, **options)
  assert relative_error(y, wanted) < 2e-5
  assert relative_error(last, wanted_last) < 2e-5


def test_four_steps_make_any_permutation_of_five():
  """A transposition of letters is the reflection at their difference."""
  rng = np.random.default_rng(1)
  length, letters, steps = 256, 5, 4
  keys = np.zeros((1, length, steps, 1, letters), np.float32)
  beta = np.zeros((1, length, steps, 1), np.float32)
  wanted, word = [], np.arange(letters)
  for t in range(length):
    used = rng.integers(0, steps + 1)
    for m in range(used):
      i, j = rng.choice(letters, 2, replace=False)
      keys[0, t, m, 0, [i, j]] = [1, -1]  # |k|^2 = 2, so beta = 1 reflects.
      beta[0, t, m, 0] = 1
      word[[i, j]] = word[[j, i]]
    wanted.append(word.copy())
  state = np.arange(letters, dtype=np.float32)[None, None, :, None]
  read = np.zeros((1, length, 1, letters), np.float32)
  read[..., 0] = 1
  _, last = compiled("householder_product")(
    *(jnp.asarray(x) for x in (read, keys, np.zeros_like(keys[..., :1]), beta)),
    initial_state=jnp.asarray(state),
  )
  y, _ = compiled("householder_product")(
    *(jnp.asarray(x) for x in (read, keys, np.zeros_like(keys[..., :1]), beta)),
    initial_state=jnp.asarray(state),
    method="recurrent",
  )
  np.testing.assert_array_equal(np.round(last[0, 0, :, 0]), word)
  np.testing.assert_array_equal(y[0, :, 0, 0], np.stack(wanted)[:, 0])


def test_wrong_arguments_are_named():
  arguments = drawn("head", steps=2)
  for name, wrong in [
    ("q", arguments["q"][:, :-1]),
    ("k", arguments["k"][:, :, :0]),
    ("v", arguments["v"][:, :, :1]),
    ("beta", arguments["beta"][:, :, 0]),
    ("log_decay", arguments["log_decay"][:, :-1]),
  ]:
    with pytest.raises(ValueError, match=f"{name} must be"):
      ops.householder_product(**{**arguments, name: wrong})
