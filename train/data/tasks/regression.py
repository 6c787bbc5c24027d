"""Linear regression in context, and the classical algorithms for it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from train.data.dataset import check_at_least
from train.data.tasks.task import SequenceTask

__all__ = [
  "LinearRegression",
  "delta_rule",
  "gradient_step",
  "least_squares",
  "ridge",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearRegression(SequenceTask):
  """Predict y_i = w^T x_i + noise from the pairs before it, w drawn per row.

  Garg et al. 2022, "What Can Transformers Learn In-Context?",
  arXiv:2208.01066, with x ~ N(0, I), noise ~ N(0, s^2) and w ~ N(0, I / d), so
  that w^T x has a variance of 1. Position i of a row holds the pair before it
  and the next question:

    inputs_i = (x_{i-1}, y_{i-1}, x_i)  [2 d + 1],   targets_i = y_i  [1]

  and the pair before position 0 is zero. Garg et al. give x_i and y_i a
  position each. The first layer then has to copy x_i to the position of y_i,
  which is a task of its own. Here key, value and query are at one position, as
  in the constructed tokens of von Oswald et al. 2023, arXiv:2309.05858, so that
  one layer suffices for gradient descent or least squares.

  "reference" [L, 1] is the prediction of `ridge` with the strength s^2 d. It is
  the mean of y_i given the inputs so far, so no prediction has a smaller mean
  squared error.

  Attributes:
    dims: d, the channels of x.
    noise: s, above 0.
  """

  name: ClassVar[str] = "linear_regression"

  length: int = 32
  dims: int = 8
  noise: float = 0.25

  @property
  def vocab_size(self) -> None:
    """None: inputs and targets are real numbers."""

  @property
  def width(self) -> int:
    """Channels of the inputs, 2 d + 1."""
    return 2 * self.dims + 1

  @property
  def strength(self) -> float:
    """s^2 d, the strength of the ridge regression that is Bayes-optimal."""
    return self.noise**2 * self.dims

  def chance(self) -> float:
    """0, the share that a prediction of 0 explains: see `Explained`."""
    return 0.0

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, dims=self.dims)
    if not 0 < self.noise < np.inf:
      raise ValueError(f"noise must be above 0 and finite, got {self.noise}")

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`. All arrays are float32."""
    w = rng.normal(size=self.dims) / np.sqrt(self.dims)
    x = rng.normal(size=(self.length, self.dims))
    y = x @ w + self.noise * rng.normal(size=self.length)
    pairs = np.column_stack([x, y])
    before = np.concatenate([np.zeros((1, self.dims + 1)), pairs[:-1]])
    found = {
      "inputs": np.concatenate([before, x], 1),
      "targets": y[:, None],
      "reference": ridge(x, y, self.strength)[:, None],
    }
    return {name: array.astype(np.float32) for name, array in found.items()}

  def pairs(self, row: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [L, d] and y [L] of a row, in float64."""
    x = row["inputs"][:, self.dims + 1 :].astype(np.float64)
    return x, row["targets"][:, 0].astype(np.float64)


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
  """Predicts each y_i by ridge regression on the pairs before it.

  w_i minimises sum_{j < i} (y_j - w^T x_j)^2 + strength |w|^2.

  Args:
    x: [L, d].
    y: [L].
    strength: Above 0.

  Returns:
    w_i^T x_i, [L].
  """
  products, sums = _sums_before(x, y)
  products += strength * np.eye(x.shape[1])
  w = np.linalg.solve(products, sums[..., None])[..., 0]
  return np.einsum("ld,ld->l", w, x)


def least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Predicts each y_i by the shortest w of least squares on the pairs before.

  Args:
    x: [L, d].
    y: [L].

  Returns:
    w_i^T x_i, [L].
  """
  found = [
    np.linalg.lstsq(x[:i], y[:i], rcond=None)[0] @ x[i] for i in range(len(y))
  ]
  return np.array(found)


def gradient_step(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """The direction of one step of gradient descent from w = 0.

  Args:
    x: [L, d].
    y: [L].

  Returns:
    sum_{j < i} y_j x_j^T x_i, [L]: the prediction after a step of rate 1 on the
    halved sum of squared errors. A step of rate r predicts r times this.
  """
  return np.einsum("ld,ld->l", _sums_before(x, y)[1], x)


def delta_rule(x: np.ndarray, y: np.ndarray, rate: float) -> np.ndarray:
  """Predicts each y_i after one gradient step per pair before it.

  w_{i+1} = w_i + rate (y_i - w_i^T x_i) x_i / |x_i|^2, from w_0 = 0: the delta
  rule with keys of length 1, or normalised least mean squares (Widrow & Hoff
  1960; Nagumo & Noda 1967).

  Args:
    x: [L, d].
    y: [L].
    rate: In (0, 2). With 1, w_{i+1} fits pair i exactly.

  Returns:
    w_i^T x_i, [L].
  """
  w, found = np.zeros(x.shape[1]), []
  for key, value in zip(x, y, strict=True):
    found.append(w @ key)
    w = w + rate * (value - found[-1]) * key / (key @ key)
  return np.array(found)


def _sums_before(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The sums of x x^T [L, d, d] and y x [L, d] over the pairs before each."""

  def before(terms: np.ndarray) -> np.ndarray:
    return np.concatenate([0 * terms[:1], np.cumsum(terms, 0)[:-1]])

  return before(x[:, :, None] * x[:, None, :]), before(y[:, None] * x)
