"""The ladders for CPU and TPU equal their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops.engine import decay, triangular
from jaxmodels.ops.engine.platform import masked_block, trace_for
from jaxmodels.ops.engine.segments import causal_masks, segment_masks

SIZES = (1, 2, 8, 16, 64)
PLATFORMS = ("cpu", "tpu")


@pytest.fixture(autouse=True)
def float64():
  """Both equal the definition up to rounding."""
  with jax.enable_x64(True):
    yield


def test_the_block_of_a_tpu_is_the_whole_chunk():
  """That of a GPU is too, unless its products are exact."""
  found = {}
  for name in ("cpu", "gpu", "tpu"):
    with trace_for(name):
      for exact in (False, True):
        blocks = [masked_block(size, exact) for size in SIZES]
        found[name, exact] = blocks == list(SIZES)
        assert found[name, exact] or blocks == [min(size, 8) for size in SIZES]
  whole = {("gpu", False), ("tpu", False), ("tpu", True)}
  assert {key for key, one in found.items() if one} == whole


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_triangular_system_is_solved(platform, size):
  rng = np.random.default_rng(size)
  k = rng.standard_normal((size, 16)) + 2  # Similar keys: a hard system.
  k /= np.linalg.norm(k, axis=1, keepdims=True)
  lower, b = np.tril(2 * k @ k.T, -1), rng.standard_normal((size, 3))
  change = np.tril(rng.standard_normal((size, size)), -1)
  with trace_for(platform):
    x, dx = jax.jit(
      lambda lower, change, b: jax.jvp(
        lambda lower: triangular.solve_unit_lower(lower, b), (lower,), (change,)
      )
    )(lower, change, b)
  system = np.eye(size) + lower
  wanted = np.linalg.solve(system, b)
  np.testing.assert_allclose(x, wanted, rtol=1e-11, atol=1e-11)
  wanted = -np.linalg.solve(system, change @ wanted)
  np.testing.assert_allclose(dx, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_scores_with_a_decay_per_key_channel(platform, size):
  rng = np.random.default_rng(size)
  q, k = rng.standard_normal((2, size, 3))
  log_decay = -rng.exponential(size=(size, 3))
  log_decay[size // 2, 0] = -np.inf
  with trace_for(platform):
    # A new function, because JAX caches traces of one for all platforms.
    found = jax.jit(lambda *given: decay.decayed_scores(*given))(
      q, k, log_decay, causal_masks(size)
    )
  wanted = np.zeros((size, size))
  for i in range(size):
    for j in range(i + 1):
      kept = np.exp(log_decay[j + 1 : i + 1].sum(0))
      wanted[i, j] = (q[i] * k[j] * kept).sum()
  np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ids", ["one segment", "a new one"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_strict_scores_and_entry_leave_out_the_own_token(platform, size, ids):
  """They use the decays of the tokens between, inside one segment."""
  rng = np.random.default_rng(size)
  q, k = rng.standard_normal((2, size, 3))
  log_decay = -rng.exponential(size=(size, 3))
  log_decay[size // 2, 0] = -np.inf
  ids = np.arange(size) // (size if ids == "one segment" else size // 2 + 1)

  @jax.jit
  def both(q, k, g, ids):
    masks = segment_masks(ids, jnp.asarray(0))
    return (
      decay.strict_scores(q, k, decay.pair_decay(g), masks),
      decay.strict_entry(decay.boundary_decay(g, k, masks), masks),
    )

  with trace_for(platform):
    found, entry = map(np.asarray, both(q, k, log_decay, ids))
  wanted = np.zeros((size, size))
  for i in range(size):
    for j in range(i):
      kept = np.exp(log_decay[j + 1 : i].sum(0)) * (ids[i] == ids[j])
      wanted[i, j] = (q[i] * k[j] * kept).sum()
    kept = np.exp(log_decay[:i].sum(0)) * (ids[i] == 0)
    np.testing.assert_allclose(entry[i], kept, rtol=1e-12, atol=1e-12)
  np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
