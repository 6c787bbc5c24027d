"""Wrong arguments of the matrix ops are caught and named."""

import chex
import jax
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops.engine import checks

SHAPE = (1, 3, 2)
GOOD = {
  "q": np.ones((*SHAPE, 4), np.float32),
  "k": np.ones((*SHAPE, 4), np.float32),
  "v": np.ones((*SHAPE, 5), np.float32),
  "beta": np.ones(SHAPE, np.float32),
  "log_decay": -np.ones(SHAPE, np.float32),
  "initial_state": np.ones((1, 2, 4, 5), np.float32),
  "segment_ids": np.zeros((1, 3), np.int32),
  "bonus": np.ones((2, 4), np.float32),
  "write_gate": np.ones((*SHAPE, 5), np.float32),
}
NAMES = {
  "linear_attention": [
    name for name in GOOD if name not in ("beta", "bonus", "write_gate")
  ],
  "delta_rule": [name for name in GOOD if name not in ("bonus", "write_gate")],
}
NAMES["linear_attention, bonus"] = [*NAMES["linear_attention"], "bonus"]
NAMES["delta_rule, gates"] = [*NAMES["delta_rule"], "write_gate"]
EVERY = [(op, name) for op, names in NAMES.items() for name in names]


def call(op, wrong):
  arguments = {name: GOOD[name] for name in NAMES[op]} | wrong
  function = getattr(ops, plain(op))
  return function(**arguments, method="chunked", chunk_size=2)


def plain(op):
  """The name that an error has."""
  return op.partition(",")[0]


def poke(name, value):
  """The good argument with one number replaced."""
  x = GOOD[name].copy()
  x.flat[-1] = value
  return {name: x}


@pytest.mark.parametrize(("op", "name"), EVERY)
def test_a_bad_shape_is_named(op, name):
  # k fixes what the others must be.
  named = "q" if name == "k" else name
  words = rf"{plain(op)}: {named} must be .* got shape"
  with pytest.raises(ValueError, match=words):
    call(op, {name: GOOD[name][:, :-1]})


@pytest.mark.parametrize("op", NAMES)
def test_too_few_axes_are_named(op):
  with pytest.raises(ValueError, match=r"k must be .*, got shape \(1, 3\)"):
    call(op, {"k": GOOD["k"][:, :, 0, 0]})


@pytest.mark.parametrize(("op", "name"), EVERY)
def test_a_bad_dtype_is_named(op, name):
  kind = np.float32 if name == "segment_ids" else np.int32
  words = rf"{plain(op)}: {name} must be .* got dtype"
  with pytest.raises(ValueError, match=words):
    call(op, {name: GOOD[name].astype(kind)})


NUMBERS = [
  *((op, poke(name, np.nan), name) for op, name in EVERY if name[-3:] != "ids"),
  *((op, poke("v", np.inf), "v must be finite") for op in NAMES),
  *((op, poke("log_decay", 0.1), "log_decay must be at") for op in NAMES),
  ("delta_rule", poke("beta", 2.1), r"beta must lie in \[0, 2\]"),
  ("delta_rule", poke("beta", -0.1), r"beta must lie in \[0, 2\]"),
  ("delta_rule, gates", poke("beta", 2.1), r"beta must lie in \[0, 2\]"),
  ("delta_rule, gates", poke("write_gate", -0.1), "write_gate must lie in"),
]


@pytest.mark.parametrize(("op", "wrong", "words"), NUMBERS)
def test_wrong_numbers_are_named_eagerly(op, wrong, words):
  # Shapes alone: enough to see that no guard is there when they are off.
  jax.eval_shape(lambda: call(op, wrong))
  with (
    checks.numerics(),
    pytest.raises(ValueError, match=f"{plain(op)}: {words}"),
  ):
    call(op, wrong)


@pytest.fixture(scope="module")
def guarded():
  """The ops compiled with their guards, once."""

  def compiled(op):
    def run(arguments):
      return call(op, arguments)

    return chex.chexify(jax.jit(run), async_check=False)

  return {op: compiled(op) for op in NAMES}


@pytest.mark.parametrize(("op", "wrong", "words"), NUMBERS)
def test_wrong_numbers_are_named_in_compiled_programs(
  guarded, op, wrong, words
):
  good = {name: GOOD[name] for name in NAMES[op]}
  with checks.numerics():
    guarded[op](good)
    # chexify has an error of its own for what fails in a compiled program.
    named = f"{plain(op)}: {words}"
    with pytest.raises((ValueError, AssertionError), match=named):
      guarded[op]({**good, **wrong})


@pytest.mark.parametrize("op", NAMES)
def test_a_decay_of_zero_and_the_ends_of_beta_are_right(op):
  with checks.numerics():
    call(op, poke("log_decay", -np.inf))
    call(op, poke("log_decay", 0.0))
    if plain(op) == "delta_rule":
      call(op, {"beta": np.float32([[[0, 2]] * 3])})


@pytest.mark.parametrize("op", NAMES)
@pytest.mark.parametrize("ids", [[0, 2, 1], [-1, 0, -1]])
def test_any_integers_are_segment_ids(op, ids):
  with checks.numerics():
    call(op, {"segment_ids": np.array([ids], np.int32)})


@pytest.mark.parametrize("op", NAMES)
def test_guards_leave_nothing_in_the_program_when_off(op):
  good = {name: GOOD[name] for name in NAMES[op]}

  def program():
    # A new function each time: jax keeps what it has traced.
    return str(jax.make_jaxpr(lambda x: call(op, x))(good))

  off = program()
  assert "check" not in off and "is_finite" not in off
  with checks.numerics(False):
    assert program() == off
