"""A matrix product classifier is a tensor, at any length."""

import itertools

import jax
import numpy as np
import pytest

from jaxmodels.models import MatrixProduct

RNG = np.random.default_rng(0)
LENGTH, VOCAB, WIDTH = 4, 3, 5


def drawn(model, tokens):
  variables = jax.jit(model.init)(jax.random.key(0), tokens)
  params = {
    name: RNG.normal(size=p.shape).astype(np.float32)
    for name, p in variables["params"].items()
  }
  return {"params": params}


def test_is_a_tensor_of_all_records():
  """Every record of 4 tokens, against the tensor contracted by einsum."""
  model = MatrixProduct(VOCAB, 2, WIDTH, length=LENGTH)
  records = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
  variables = drawn(model, records)
  logits, state = jax.jit(model.apply)(variables, records)
  params = {k: np.float64(p) for k, p in variables["params"].items()}
  tensor = np.einsum(
    "cz,dzy,eyx,fxw,gwv,v->gfedc",
    params["output"],
    *(np.eye(WIDTH) + params["matrices"])[::-1],
    params["start"],
  ).reshape(-1, 2)
  share = tensor**2 / (tensor**2).sum(1, keepdims=True)
  np.testing.assert_allclose(logits, np.log(share + 1e-6), atol=2e-4)
  # Features that are one-hot are tokens.
  hot = np.eye(VOCAB, dtype=np.float32)[records]
  same, _ = jax.jit(model.apply)(variables, hot)
  np.testing.assert_allclose(same, logits, atol=2e-4)
  scaled = np.exp(state.log_norm)[:, None] * (state.vector @ params["output"].T)
  np.testing.assert_allclose(scaled, tensor, atol=2e-4 * np.abs(tensor).max())


def test_a_long_record_in_two_calls():
  """Norms of e^5000 fit in no float, and the product is that of float64."""
  model = MatrixProduct(VOCAB, 3, WIDTH)
  tokens = RNG.integers(VOCAB, size=(2, 4000))
  variables = drawn(model, tokens[:, :1])
  run = jax.jit(model.apply)
  first, state = run(variables, tokens[:, :1990])
  logits, state = run(variables, tokens[:, 1990:], state)
  matrices = np.eye(WIDTH) + np.float64(variables["params"]["matrices"][0])
  for row in range(2):
    vector, log_norm = np.float64(variables["params"]["start"]), 0.0
    for token in tokens[row]:
      vector = matrices[token] @ vector
      log_norm += np.log(np.linalg.norm(vector))
      vector /= np.linalg.norm(vector)
    f = variables["params"]["output"] @ vector
    np.testing.assert_allclose(
      np.exp(logits[row]), f**2 / (f @ f) + 1e-6, atol=1e-4
    )
    # The last norm of the start is in the logarithm too.
    np.testing.assert_allclose(state.log_norm[row], log_norm, rtol=1e-5)
  assert abs(log_norm) > 2000 and state.position.tolist() == [4000, 4000]
  assert np.isfinite(np.asarray(first)).all()


def test_parity_with_two_shared_matrices():
  model = MatrixProduct(2, 2, 2)
  tokens = RNG.integers(2, size=(8, 300))
  params = {
    "matrices": np.array([[[0, 0], [0, 0]], [[-1, 1], [1, -1]]], np.float32)[
      None
    ],
    "start": np.array([1, 0], np.float32),
    "output": np.eye(2, dtype=np.float32),
  }
  logits, _ = jax.jit(model.apply)({"params": params}, tokens)
  assert (np.argmax(logits, 1) == tokens.sum(1) % 2).all()


def test_a_wrong_x_is_named():
  model = MatrixProduct(2, 2, 2, length=3)
  wrong = ((2, 4), int), (3, int), ((2, 3), float), ((2, 3, 4), float)
  for tokens in (np.ones(*each) for each in wrong):
    with pytest.raises(ValueError, match="x must"):
      jax.eval_shape(model.init, jax.random.key(0), tokens)
