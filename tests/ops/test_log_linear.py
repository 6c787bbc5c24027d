"""Log-linear attention: its quadratic form, its base op, and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops.log_linear import levels_of
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples import OPS, Sizes
from tests.ops.compiled import compiled

LENGTH = 29


LEVELS = levels_of(LENGTH)


def drawn(name, levels=LEVELS, length=LENGTH):
  arguments = OPS[name].arguments(length, sizes=Sizes(decay=0.1))
  del arguments["initial_state"]
  rng = np.random.default_rng(1)
  arguments["scale"] = rng.uniform(0, 2, (2, length, 2, levels + 1))
  return {key: jnp.asarray(x, jnp.float32) for key, x in arguments.items()}


def test_the_quadratic_form_is_masked_by_levels():
  """The definition of the paper: decayed scores times a matrix of scales."""
  given = drawn("log_linear_attention")
  y, _ = compiled("log_linear_attention")(**given, chunk_size=8)
  q, k, v, scale, decay = (
    np.asarray(given[name], float)
    for name in ("q", "k", "v", "scale", "log_decay")
  )
  mask = np.zeros((2, 2, LENGTH, LENGTH))
  for t in range(LENGTH):
    own, end = [t], t
    mask[:, :, t, own] = scale[:, t, :, :1]
    for bit in range(LENGTH.bit_length()):  # The lowest bit has the last range.
      if t >> bit & 1:
        for s in range(end - 2**bit, end):
          past = np.exp(decay[:, s + 1 : t + 1].sum(1))
          mask[:, :, t, s] = scale[:, t, :, bit + 1] * past
        end -= 2**bit
    assert end == 0
  scores = mask * np.einsum("bthk,bshk->bhts", q, k)
  wanted = np.einsum("bhts,bshv->bthv", scores, v)
  assert relative_error(y, wanted) < 2e-5


@pytest.mark.parametrize(
  ("name", "base"),
  [
    ("log_linear_attention", "linear_attention"),
    ("log_linear_attention_delta_rule", "delta_rule"),
  ],
)
def test_scales_of_one_make_the_base_op(name, base):
  given = drawn(name)
  given["scale"] = jnp.ones_like(given["scale"])
  y, last = compiled("log_linear_attention")(**given, chunk_size=8)
  del given["scale"]
  wanted, state = compiled(base)(**given)
  assert relative_error(y, wanted) < 2e-5
  assert relative_error(last.levels.sum(2), state) < 2e-5
  np.testing.assert_array_equal(last.position, LENGTH)


def test_the_last_level_holds_everything_older():
  """With two levels: the token before an odd one, and all others."""
  given = drawn("log_linear_attention", levels=2)
  del given["log_decay"]
  y, _ = compiled("log_linear_attention")(**given)
  q, k, v, scale = (
    np.asarray(given[name], float) for name in ("q", "k", "v", "scale")
  )
  for t in (13, 20):
    level = np.full(t + 1, 2)
    level[t] = 0
    level[t - t % 2 : t] = 1
    weights = scale[:, t][:, :, level] * np.einsum(
      "bhk,bshk->bhs", q[:, t], k[:, : t + 1]
    )
    wanted = np.einsum("bhs,bshv->bhv", weights, v[:, : t + 1])
    assert relative_error(y[:, t], wanted) < 2e-5


@pytest.mark.slow
def test_a_cut_sequence_and_no_batch_axis():
  given = drawn("log_linear_attention_delta_rule", levels=3)
  run = compiled("log_linear_attention")
  wanted, last = run(**given, chunk_size=8)
  one = {name: x[1] for name, x in given.items()}
  first = {name: x[:13] for name, x in one.items()}
  y, state = run(**first, chunk_size=8)
  rest = {name: x[13:] for name, x in one.items()}
  later, final = run(**rest, initial_state=state, chunk_size=8)
  assert relative_error(jnp.concatenate([y, later]), wanted[1]) < 2e-5
  assert relative_error(final.levels, last.levels[1]) < 2e-5
  assert final.position == last.position[1] == LENGTH


def test_the_state_grows_as_the_logarithm_of_the_length():
  """N matrices keep apart 2^N tokens, and n tokens fill as many as n has 1s."""
  sizes = []
  for exponent in (4, 8, 12, 16):
    given = drawn("log_linear_attention", levels_of(2**exponent), length=1)
    _, state = jax.eval_shape(ops.log_linear_attention, **given)
    sizes.append(np.prod(state.levels.shape) // (2 * 2 * 8 * 6))
  assert sizes == [4, 8, 12, 16]
  for length in (7, 8, 21):
    given = drawn("log_linear_attention", length=length)
    _, state = compiled("log_linear_attention")(**given)
    used = np.asarray(state.levels).any((0, 1, 3, 4))
    bits = [bool(length >> bit & 1) for bit in range(len(used))]
    np.testing.assert_array_equal(used, bits)


def test_positions_do_not_round_above_2_to_the_24():
  """Token 2^25 + 1 reads the token before it at level 1, not at level 0."""
  given = drawn("log_linear_attention", levels=26, length=3)
  del given["log_decay"]
  start = jnp.full((2,), 2**25, jnp.int32)
  state = ops.LogLinear(jnp.zeros((2, 2, 26, 8, 6)), start)
  y, last = compiled("log_linear_attention")(**given, initial_state=state)
  scale, scores = given["scale"][:, 1], given["q"][:, 1, None] * given["k"]
  weights = jnp.sum(scores, -1)[:, :2] * jnp.stack(
    [scale[..., 1], scale[..., 0]], 1
  )
  wanted = jnp.einsum("bsh,bshv->bhv", weights, given["v"][:, :2])
  assert relative_error(y[:, 1], wanted) < 2e-5
  np.testing.assert_array_equal(last.position, 2**25 + 3)


def test_wrong_arguments_are_named():
  given = drawn("log_linear_attention")
  for wrong, words in [
    ({"scale": given["scale"][..., :1]}, r"N from 1 to 31, got N = 0"),
    ({"scale": given["scale"][:, 1:]}, "scale must be"),
    ({"initial_state": given["v"]}, r"LogLinear\(levels, position\)"),
    (
      {"initial_state": (given["v"], jnp.zeros(2, jnp.int32))},
      "initial_state.levels must be",
    ),
  ]:
    with pytest.raises(ValueError, match=words):
      ops.log_linear_attention(**{**given, **wrong})
