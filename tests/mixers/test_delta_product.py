"""DeltaProduct: interleaved delta steps, and words of permutations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import DeltaNet, DeltaProduct
from jaxmodels.testing import relative_error

WORDS = np.random.default_rng(0)


def test_one_step_is_the_delta_rule():
  x = WORDS.standard_normal((2, 11, 8)).astype(np.float32)
  fields = {"heads": 2, "negative_eigenvalues": True, "output_gate": True}
  one, many = DeltaNet(8, **fields), DeltaProduct(8, steps=1, **fields)
  params = jax.jit(one.init)(jax.random.key(0), x)
  y, _ = jax.jit(many.apply)(params, x)
  wanted, _ = jax.jit(one.apply)(params, x)
  assert relative_error(y, wanted) < 1e-6


def test_steps_are_interleaved_tokens_of_the_delta_rule():
  """Each token repeated M times, as M kinds of token with M sets of weights."""
  steps, width, length = 3, 8, 7
  layer = DeltaProduct(
    width, heads=2, steps=steps, kernel_width=1, output_gate=False
  )
  x = WORDS.standard_normal((1, length, width)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  for name in ("query", "key", "value"):
    kernel = params[f"{name}_convolution"]["kernel"]
    params[f"{name}_convolution"]["kernel"] = jnp.ones_like(kernel)

  def of_step(m, name):  # The columns [D, H F] of one step.
    kernel = params[name]["kernel"].reshape(width, 2, steps, -1)
    return kernel[:, :, m].reshape(width, -1)

  # The one-hot kind of a token chooses the weights of its step.
  kinds = np.tile(np.eye(steps, dtype=np.float32), (length, 1))
  tokens = np.einsum("lm,ld->lmd", kinds, np.repeat(x[0], steps, 0))
  tokens = tokens.reshape(1, length * steps, steps * width)
  delta = DeltaNet(
    steps * width,
    heads=2,
    key_width=width // 2,
    value_width=width // 2,
    kernel_width=1,
    negative_eigenvalues=True,
  )
  own = {
    name: {"kernel": jnp.concatenate([of_step(m, name) for m in range(steps)])}
    for name in ("key", "value", "beta")
  }
  own["query"] = {"kernel": jnp.tile(params["query"]["kernel"], (steps, 1))}
  for name in ("query", "key", "value"):
    own[f"{name}_convolution"] = {"kernel": jnp.ones((1, width))}
  own["norm"] = params["norm"]
  own["output"] = {"kernel": jnp.tile(params["output"]["kernel"], (1, steps))}
  y, state = jax.jit(layer.apply)({"params": params}, x)
  wanted, last = jax.jit(delta.apply)({"params": own}, tokens)
  assert relative_error(y, wanted[:, steps - 1 :: steps, :width]) < 2e-5
  assert relative_error(state.state, last.state) < 2e-5


# Three-cycles and products of two transpositions need two reflections, and
# five-cycles need four.
@pytest.mark.parametrize(("steps", "moved"), [(2, 3), (4, 5)])
def test_hand_set_parameters_track_permutations_of_five(steps, moved):
  """Reflections e_i - e_j swap two letters; the memory holds the word.

  Writes are exact, because their values are 0 for permutations. A first token
  per letter writes it, with the letter's number as its value.
  """
  letters, length = 5, 96
  generators = _cycles(letters, moved)
  width = letters + len(generators)  # One-hot tokens.
  layer = DeltaProduct(
    width,
    heads=1,
    steps=steps,
    key_width=letters,
    value_width=1,
    kernel_width=1,
    output_gate=False,
  )
  word = WORDS.integers(len(generators), size=length)
  tokens = np.concatenate([np.arange(letters), letters + word])
  x = np.eye(width, dtype=np.float32)[tokens][None]
  params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
  params = _hand_set(params, generators, letters, steps, width)
  _, state = jax.jit(layer.apply)({"params": params}, x)
  wanted = np.arange(letters)
  for generator in word:
    for i, j in generators[generator]:
      wanted[[i, j]] = wanted[[j, i]]
  # The epsilon in the norm of a key, 1e-6 beside |k|^2 = 1/8, shrinks what a
  # reflection flips by 2e-5 of 1: at most 0.01 after 96 tokens of 4.
  np.testing.assert_allclose(state.state[0, 0, :, 0], wanted, atol=0.02)


def _cycles(letters, moved):
  """Cycles of `moved` letters, each as the transpositions that make it."""
  return [
    [(order[m], order[m + 1]) for m in range(moved - 1)]
    for order in itertools.islice(
      itertools.permutations(range(letters), moved), 0, None, 7
    )
  ]


def _hand_set(params, generators, letters, steps, width):
  """Kernels that map a one-hot token to its keys, values and strengths.

  SiLU and the norm of keys come between, so a key e_i - e_j is made by SiLU
  from one large positive number and one whose SiLU is its negative.
  """
  key = np.zeros((width, steps, letters))
  value, beta = np.zeros((width, steps)), np.full((width, steps), -200.0)
  for letter in range(letters):
    key[letter, 0, letter], beta[letter, 0] = 50, 0  # 2 sigmoid(0) = 1.
    value[letter, 0] = _silu_inverse(letter)
  for place, generator in enumerate(generators):
    for m, (i, j) in enumerate(generator):
      key[letters + place, m, i] = _silu_inverse(0.25)
      key[letters + place, m, j] = _silu_inverse(-0.25)
      beta[letters + place, m] = 200  # 2 sigmoid(200) = 2: a reflection.
  kernels = {
    "key": key.reshape(width, -1), "value": value, "beta": beta,
  }  # fmt: skip
  params = dict(params)
  for name, kernel in kernels.items():
    params[name] = {"kernel": jnp.asarray(kernel, jnp.float32)}
    if name != "beta":
      ones = jnp.ones((1, kernel.shape[1]))
      params[f"{name}_convolution"] = {"kernel": ones}
  return params


def _silu_inverse(y):
  """The larger x with x sigmoid(x) = y, by bisection; y above -0.27."""
  low, high = -1.27, 60.0
  for _ in range(200):
    middle = (low + high) / 2
    below = middle / (1 + np.exp(-middle)) < y
    low, high = (middle, high) if below else (low, middle)
  return low
