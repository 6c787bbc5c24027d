"""Bilinear RNNs track words of groups exactly; positive diagonals cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import BilinearRNN

LENGTH = 512


@pytest.mark.parametrize("letters", [3, 5])
def test_permutation_matrices_track_words_exactly(letters):
  """S3 and S5: transpositions and cycles as W, one-hot tokens, 512 of them."""
  rng = np.random.default_rng(letters)
  generators = np.stack([rng.permutation(letters) for _ in range(4)])
  matrices = np.eye(letters)[generators]  # h -> h[generator].
  layer = BilinearRNN(4, state_width=letters, transition="full")
  word = rng.integers(4, size=LENGTH)
  x = np.eye(4, dtype=np.float32)[word][None]
  params = {
    "transition": {"kernel": matrices.reshape(4, -1)},
    "initial": np.arange(letters)[None],
    "norm": {"scale": np.ones(letters)},
    "output": {"kernel": np.eye(letters, 4)},
  }
  params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
  y, state = jax.jit(layer.apply)({"params": params}, x)
  wanted, seen = np.arange(letters), []
  for token in word:
    wanted = wanted[generators[token]]
    seen.append(wanted)
  np.testing.assert_array_equal(state.state[0], wanted)
  norm = np.sqrt(np.mean(np.arange(letters) ** 2))
  read = np.stack(seen)[:, :4] / norm
  np.testing.assert_allclose(y[0, :, : read.shape[1]], read, atol=1e-6)


def test_a_diagonal_does_parity_and_a_positive_one_cannot():
  """A state prod_t a(x_t) of positive a is exp(-rate n) of the n ones.

  So a linear readout of N such states is a sum of N exponentials in n, which
  has at most N - 1 zeros, but the parity changes sign at every n.
  """
  width, ones = 4, 40
  layer = BilinearRNN(2, state_width=width, transition="diagonal")
  x = np.eye(2, dtype=np.float32)[np.ones((1, ones), int)]
  parity = (-1.0) ** np.arange(1, ones + 1)

  def states(of_one):
    params = {
      "transition": {"kernel": np.stack([np.ones(width), of_one])},
      "initial": np.ones((width, 1)),
      "norm": {"scale": np.ones(width)},
      "output": {"kernel": np.zeros((width, 2))},
    }
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)

    def each(x, state):
      _, state = layer.apply({"params": params}, x[:, None], state)
      return state, state.state[0]

    step = jax.jit(lambda s: each(x[:, 0], s))
    state, seen = layer.init_state(1), []
    for _ in range(ones):
      state, h = step(state)
      seen.append(np.asarray(h, float))
    return np.stack(seen)

  def best_readout(h):
    return h @ np.linalg.lstsq(h, parity, rcond=None)[0]

  np.testing.assert_array_equal(states(-np.ones(width))[:, 0], parity)
  for seed in range(5):
    positive = np.random.default_rng(seed).uniform(0.2, 2, width)
    read = best_readout(states(positive))
    assert (np.diff(np.sign(read)) != 0).sum() <= width - 1
    assert np.mean(np.sign(read) == parity) < 0.75
