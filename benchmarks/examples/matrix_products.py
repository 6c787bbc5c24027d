"""Images as discrete records, by a matrix product state.

python -m benchmarks.examples.matrix_products

The 1,797 digits of scikit-learn in 4 grey levels, 64 tokens per image; each
place has its own matrices. The baseline is a logistic regression on the one-hot
tokens. Each seed has a split of its own: 1,437 images to train on, 360 to test.

Expect an accuracy of 98.1%, 97.5% and 96.4% for the seeds 0, 1 and 2, where
logistic regression has 96.7%, 96.4% and 93.6%, in half a minute per seed.
"""

import argparse
import functools

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxmodels.models import MatrixProduct

MODEL = MatrixProduct(vocab_size=4, classes=10, width=16, length=64)
Split = tuple[np.ndarray, np.ndarray]


def draw(rng: np.random.Generator) -> tuple[Split, Split]:
  """Tokens [n, 64] and labels [n], to train on and to test."""
  images, labels = load_digits(return_X_y=True)
  order = rng.permutation(len(images))
  tokens, labels = np.minimum(images // 4, 3).astype(int)[order], labels[order]
  return (tokens[360:], labels[360:]), (tokens[:360], labels[:360])


def train(data: Split, rng: np.random.Generator, steps: int):
  """Trains by Adam on batches of 50; returns the variables."""
  tokens, labels = data
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
  key = jax.random.key(int(rng.integers(2**31)))
  variables = jax.jit(MODEL.init)(key, tokens[:1])

  def loss(variables, tokens, labels):
    logits, _ = MODEL.apply(variables, tokens)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(variables, moments, tokens, labels):
    gradients = jax.grad(loss)(variables, tokens, labels)
    updates, moments = optimizer.update(gradients, moments, variables)
    return optax.apply_updates(variables, updates), moments

  moments = optimizer.init(variables)
  for _ in range(steps):
    rows = rng.choice(len(labels), 50, replace=False)
    variables, moments = step(variables, moments, tokens[rows], labels[rows])
  return variables


def run(seed: int, steps: int) -> tuple[float, float]:
  """Test accuracies of the matrix product and of logistic regression."""
  rng = np.random.default_rng(seed)
  data, (tokens, labels) = draw(rng)
  variables = train(data, rng, steps)
  logits, _ = jax.jit(MODEL.apply)(variables, tokens)
  one_hot = np.eye(MODEL.vocab_size)

  def flat(tokens: np.ndarray) -> np.ndarray:
    return one_hot[tokens].reshape(len(tokens), -1)

  linear = LogisticRegression(max_iter=2000)
  linear.fit(flat(data[0]), data[1])
  found = np.mean(np.argmax(logits, 1) == labels)
  return float(found), float(linear.score(flat(tokens), labels))


def main() -> None:
  """Prints one line per seed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--steps", type=int, default=800)
  options = parser.parse_args()
  for seed in options.seeds:
    found, baseline = run(seed, options.steps)
    print(
      f"seed {seed}: matrix product {found:.1%}, logistic regression"
      f" {baseline:.1%}",
      flush=True,
    )


if __name__ == "__main__":
  main()
