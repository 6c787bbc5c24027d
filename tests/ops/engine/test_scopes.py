"""In a profile, the computations of an op have its name."""

import re

import jax
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.testing.examples import OPS
from tests.ops import draws
from tests.ops.test_matrix import RECORDS

LENGTH = 4


def arguments(draw):
  drawn = draw(np.random.default_rng(0), LENGTH)
  return jax.tree.map(
    lambda x: x.astype(np.complex64 if np.iscomplexobj(x) else np.float32),
    drawn,
  )


def kalman(rng, length):
  eye = np.eye(2)
  return {
    "y": rng.standard_normal((length, 2)),
    **{"F": eye, "Q": eye, "H": eye, "R": eye},
    "mean": np.zeros(2),
    "covariance": eye,
  }


def plain(*names):
  def draw(rng, length):
    drawn = draws.qkv(rng, length)
    return {name: drawn[name] for name in names}

  return draw


def log_linear(rng, length):
  """Without a state, of which the record leaves out the count of tokens."""
  drawn = OPS["log_linear_attention"].draw_length(rng, length)
  return {name: x for name, x in drawn.items() if name != "initial_state"}


def convolution(width):
  def draw(rng, length):
    return {
      "x": rng.standard_normal((2, length, 3)),
      "kernel": rng.standard_normal((width, 3)),
    }

  return draw


CASES = {
  **{
    OPS[name].op.__name__: OPS[name].draw_length
    for name in RECORDS
    if not OPS[name].options
  },
  "attention": plain("q", "k", "v"),
  "bidirectional": plain("q", "k", "v"),
  "causal_convolution": convolution(3),
  "log_linear_attention": log_linear,
  "ttt_linear": OPS["ttt_linear"].draw_length,
  "long_convolution": convolution(LENGTH),
  "kalman_filter": kalman,
  "kalman_smoother": kalman,
}
# Arguments are reshaped before the scope of an op, without any computation.
MOVES = {"reshape", "slice", "squeeze", "broadcast_in_dim", "transpose"}


def test_these_tests_cover_every_op():
  types = {"Cache", "Gaussian", "LogLinear", "Mesa", "Normalized", "TTT"}
  tools = {"families", "make_op", "segments"}
  assert set(ops.__all__) - types - tools == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_all_computations_of_an_op_are_in_its_scope(name):
  op = getattr(ops, name)
  program = jax.jit(lambda drawn: op(**drawn))
  text = program.lower(arguments(CASES[name])).as_text(debug_info=True)
  paths = set(re.findall(r'loc\("jit\(<lambda>\)/([^"]*)"', text))
  inside = {path for path in paths if path.startswith(f"{name}/")}
  assert len(inside) > 3
  assert paths - inside <= MOVES
