"""Equal to the state-space duality of mamba2-jax."""

import jax.numpy as jnp
import pytest

from jaxmodels import ops
from tests.ops import draws
from tests.peers.compare import check, drawn, jax_peer, load

pytestmark = pytest.mark.slow


def test_state_space_duality():
  """Linear attention with q = C, k = B, v = dt x, log decay dt A.

  It takes dt before its softplus, which is undone beforehand, and its state
  is the transpose of ours.
  """
  ssd = load("mamba2_jax.modeling").ssd_forward

  def peer(q, k, v, log_decay, initial_state):
    heads, dt = v.shape[2], -log_decay
    before = dt + jnp.log(-jnp.expm1(-dt))
    y, state = ssd(
      v / dt[..., None], before, -jnp.ones(heads), k, q, 16, jnp.zeros(heads),
      jnp.zeros(heads), 0.0, jnp.inf, initial_state.mT[:, None],
      return_final_states=True,
    )  # fmt: skip
    return y, state.mT

  inputs = drawn(draws.linear_attention("head"))
  check(ops.linear_attention, jax_peer(peer), inputs)
