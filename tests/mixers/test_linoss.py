"""LinOSS: oscillators that keep or lose energy, and the scheme "imex"."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.mixers import LinOSS
from jaxmodels.mixers.linoss import LinOSSState
from jaxmodels.testing.examples.mixers.linoss import plain

SIZE, LENGTH = 5, 400
RNG = np.random.default_rng(0)


def test_imex_conserves_energy_without_an_input_and_im_loses_it():
  energies, raw = {}, {}
  start = RNG.standard_normal((1, SIZE, 2)).astype(np.float32)
  for scheme in ("im", "imex"):
    layer = LinOSS(3, SIZE, scheme=scheme)
    silent = np.zeros((1, LENGTH, 3), np.float32)
    params = jax.jit(layer.init)(jax.random.key(0), silent[:, :1])
    a = np.maximum(params["params"]["A"], 0)
    dt = 1 / (1 + np.exp(-np.asarray(params["params"]["step_logit"])))
    apply = jax.jit(layer.apply)
    states, state = [start], LinOSSState(jnp.asarray(start))
    for _ in range(20):
      _, state = apply(params, silent[:, : LENGTH // 20], state)
      states.append(state.state)
    z, y = np.moveaxis(np.concatenate(states).astype(np.float64), -1, 0)
    energies[scheme] = z**2 + a * y**2 - dt * a * y * z
    raw[scheme] = z**2 + a * y**2
  np.testing.assert_allclose(
    energies["imex"] / energies["imex"][:1], 1, atol=1e-4
  )
  # The energy itself stays within the bounds that the conserved one implies.
  bound = (1 + dt * np.sqrt(a) / 2) / (1 - dt * np.sqrt(a) / 2)
  assert (raw["imex"] < 1.001 * bound * raw["imex"][:1]).all()
  assert (np.diff(raw["im"], axis=0) < 0).all()
  assert (raw["im"][-1] < 1e-3 * raw["im"][0]).all()


def test_imex_equals_a_loop():
  layer = LinOSS(4, SIZE, scheme="imex")
  x = RNG.standard_normal((1, 30, 4)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(1), x)["params"]
  y, _ = jax.jit(layer.apply)({"params": params}, x)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  wanted = plain(exact, x[0].astype(np.float64), layer)
  np.testing.assert_allclose(y[0], wanted, atol=2e-5 * np.abs(wanted).max())
