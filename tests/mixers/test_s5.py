"""S5: resets inside the scan, and one model of all inputs and outputs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.mixers import S5
from jaxmodels.mixers.s5 import S5State
from jaxmodels.ops import segments

WIDTH, STATES, LENGTH = 5, 8, 24
RNG = np.random.default_rng(0)
LAYER = S5(WIDTH, STATES, method="associative")
X = RNG.standard_normal((2, LENGTH, WIDTH)).astype(np.float32)
PARAMS = jax.jit(LAYER.init)(jax.random.key(0), X)


def test_a_reset_inside_the_scan_starts_a_new_episode():
  """One scan over rows with resets equals an own run of each episode."""
  starts = ((0, 7, 8, 19), (5,))  # Row 0 has a reset at its first token.
  resets = np.zeros((2, LENGTH), bool)
  for row, at in enumerate(starts):
    resets[row, list(at)] = True
  start = RNG.standard_normal((2, STATES // 2, 2)).astype(np.float32)
  state = S5State(jnp.asarray(start[..., 0] + 1j * start[..., 1]))
  ids = segments.from_resets(resets)
  run = jax.jit(
    lambda x, state, ids: LAYER.apply(PARAMS, x, state, segment_ids=ids)
  )
  y, _ = run(X, state, ids)
  for row, at in enumerate(starts):
    for begin, end in itertools.pairwise(sorted({0, *at, LENGTH})):
      # The episode first in its row, then zeros. Only an episode without a
      # reset at its start continues the state.
      alone = np.zeros_like(X)
      alone[row, : end - begin] = X[row, begin:end]
      own = state if not resets[row, begin] else LAYER.init_state(2)
      wanted, _ = run(alone, own, 0 * ids)
      np.testing.assert_allclose(
        y[row, begin:end], wanted[row, : end - begin], atol=2e-5
      )


def test_every_output_reads_every_input_through_one_state():
  """The state's response to an impulse at input i is a^k b B_i."""
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), PARAMS["params"])
  rate = -np.exp(params["log_decay_rate"]) + 1j * params["frequency"]
  a = np.exp(rate * np.exp(params["log_step"]))
  b = (a - 1) / rate
  matrix = params["B"][0] + 1j * params["B"][1]
  impulses = np.zeros((WIDTH, 4, WIDTH), np.float32)
  impulses[:, 0] = np.eye(WIDTH)
  _, last = jax.jit(LAYER.apply)(PARAMS, impulses)
  wanted = (a**3 * b)[None] * matrix.T
  np.testing.assert_allclose(last.state, wanted, atol=1e-5)
  # N / 2 numbers, not so many per channel; each output depends on all inputs.
  assert last.state.shape == (WIDTH, STATES // 2)
  outputs = jax.jit(lambda u: LAYER.apply(PARAMS, u[None, None])[0][0, 0])
  assert (np.abs(jax.jacrev(outputs)(X[0, 0])) > 1e-6).all()
