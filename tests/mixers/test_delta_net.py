"""The delta rules among the mixers: which one is a special case of which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import KDA, GatedDeltaNet, GatedDeltaNet2
from jaxmodels.testing import relative_error

WIDTH, HEADS = 8, 2
X = np.random.default_rng(0).standard_normal((2, 11, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(
  ("decay", "base"), [("key", KDA), ("head", GatedDeltaNet)]
)
def test_equal_gates_make_kda_and_gated_deltanet(decay, base):
  """b = w = beta, one number per head, by equal columns of the projections."""
  plain = base(WIDTH, heads=HEADS, value_width=3)
  params = jax.jit(plain.init)(jax.random.key(0), X)["params"]
  kernel = 3 * params["beta"]["kernel"]
  gates = {
    name: {"kernel": jnp.repeat(kernel, width, axis=1)}
    for name, width in (("erase", WIDTH // HEADS), ("write", 3))
  }
  shared = {name: p for name, p in params.items() if name != "beta"}
  gated = GatedDeltaNet2(WIDTH, heads=HEADS, value_width=3, decay=decay)
  y, state = jax.jit(gated.apply)({"params": shared | gates}, X)
  params = shared | {"beta": {"kernel": kernel}}
  wanted, last = jax.jit(plain.apply)({"params": params}, X)
  assert relative_error(y, wanted) < 2e-6
  assert relative_error(state.state, last.state) < 2e-6
  # Gates that differ between channels are another rule.
  gates["erase"]["kernel"] = gates["erase"]["kernel"][:, ::-1]
  y, _ = jax.jit(gated.apply)({"params": shared | gates}, X)
  assert relative_error(y, wanted) > 1e-2
