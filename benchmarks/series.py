"""Simple baselines on the data of configs/series: they take seconds.

python -m benchmarks.series

prints mean squared errors of forecasts of the validation split, in the units of
`train.data.tasks.Forecasts`, and accuracies on `SpokenVowels`. It needs
scikit-learn, statsmodels and the files of sktime. Choices between strengths of
ridge regression use the training split alone. No baseline has a seed, except
for the random kernels.
"""

import numpy as np
from sklearn.linear_model import (
  LogisticRegression,
  RidgeClassifierCV,
  RidgeCV,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from train.data.tasks import Forecasts, SpokenVowels
from train.data.tasks.series import SEASONS

DATA = (
  Forecasts(),
  Forecasts(series="sunspots", look_back=33, horizon=6),
  Forecasts(series="macrodata", look_back=16, horizon=4),
)
_STRENGTHS = np.logspace(-3, 5, 17)


def forecasts(data: Forecasts) -> dict[str, float]:
  """Mean squared errors of the forecasts of simple methods.

  - "last": the last step of the past;
  - "seasonal naive": the last season of the past;
  - "ridge": ridge regression from the past of a variate to its future, for all
    variates together;
  - "ridge from last": the same of differences from the last step;
  - "ridge of all": differences again, from all variates to all;
  - "DLinear": least squares from two parts of the past, a moving mean over a
    season and the rest (Zeng et al. 2023, arXiv:2205.13504), with the ridge of
    the smallest error under leave-one-out, in place of gradient descent.
  """
  found = data.windows()
  (past, future), (known, truth) = found["train"], found["validation"]
  season = SEASONS[data.series]
  last, known_last = past[:, -1:], known[:, -1:]
  times = known.shape[1] - season + np.arange(data.horizon) % season

  def error(predicted: np.ndarray) -> float:
    return float(np.mean((predicted - truth) ** 2))

  def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    model = RidgeCV(_STRENGTHS).fit(_rows(x), _rows(y))
    predicted = model.predict(_rows(new)).reshape(len(new), -1, data.horizon)
    return np.swapaxes(predicted, 1, 2)

  values = {
    "last": error(np.repeat(known_last, data.horizon, 1)),
    "seasonal naive": error(known[:, times]),
    "ridge": error(ridge(past, future, known)),
    "ridge from last": error(
      ridge(past - last, future - last, known - known_last) + known_last
    ),
    "DLinear": error(
      ridge(_parts(past, season), future, _parts(known, season))
    ),
  }
  if past.shape[2] > 1:
    model = RidgeCV(_STRENGTHS).fit(
      (past - last).reshape(len(past), -1),
      (future - last).reshape(len(past), -1),
    )
    predicted = model.predict((known - known_last).reshape(len(known), -1))
    values["ridge of all"] = error(predicted.reshape(truth.shape) + known_last)
  return values


def _rows(x: np.ndarray) -> np.ndarray:
  """[B, L, C] as one row per window and variate, [B C, L]."""
  return np.swapaxes(x, 1, 2).reshape(-1, x.shape[1])


def _parts(x: np.ndarray, season: int) -> np.ndarray:
  """The moving mean of [B, L, C] and the rest, [B, 2 L, C].

  The ends are repeated, so that the mean has L steps.
  """
  before, after = (season - 1) // 2, season // 2
  wide = np.pad(x, ((0, 0), (before, after), (0, 0)), mode="edge")
  mean = np.lib.stride_tricks.sliding_window_view(wide, season, 1).mean(-1)
  return np.concatenate([mean, x - mean], 1)


def classes() -> dict[str, float]:
  """Accuracies of simple methods on `SpokenVowels`.

  - "nearest": the utterance with the smallest Euclidean distance;
  - "logistic": logistic regression of the 29 x 12 numbers;
  - "means": logistic regression of the mean and the deviation over time;
  - "ROCKET": ridge regression of features of 2,000 random kernels
    (arXiv:1910.13051), over random sets of variates.
  """
  (x, y), (new, truth) = (_arrays(split) for split in ("train", "validation"))
  flat, flat_new = x.reshape(len(x), -1), new.reshape(len(new), -1)

  def accuracy(model, features: np.ndarray, others: np.ndarray) -> float:
    scaler = StandardScaler().fit(features)
    model.fit(scaler.transform(features), y)
    return float(model.score(scaler.transform(others), truth))

  nearest = KNeighborsClassifier(1).fit(flat, y).score(flat_new, truth)
  return {
    "nearest": float(nearest),
    "logistic": accuracy(LogisticRegression(max_iter=2000), flat, flat_new),
    "means": accuracy(
      LogisticRegression(max_iter=2000), _moments(x), _moments(new)
    ),
    "ROCKET": accuracy(
      RidgeClassifierCV(_STRENGTHS), _rocket(x, 2000), _rocket(new, 2000)
    ),
  }


def _arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
  data = SpokenVowels().open(split)
  rows = [data[i] for i in range(len(data))]
  return (
    np.stack([row["inputs"] for row in rows]),
    np.array([row["targets"] for row in rows]),
  )


def _moments(x: np.ndarray) -> np.ndarray:
  """Means and deviations over the steps before the zeros."""
  found = []
  for series in x:
    steps = series[np.any(series != 0, 1)]
    found.append(np.concatenate([steps.mean(0), steps.std(0)]))
  return np.stack(found)


def _rocket(x: np.ndarray, kernels: int) -> np.ndarray:
  """The maximum and the share of positive values per random kernel."""
  rng = np.random.default_rng(0)
  length, variates = x.shape[1:]
  found = []
  for _ in range(kernels):
    width = int(rng.choice([7, 9, 11]))
    reach = np.log2((length - 1) / (width - 1))
    dilation = int(2 ** rng.uniform(0, reach))
    count = int(2 ** rng.uniform(0, np.log2(variates + 1)))
    chosen = rng.choice(variates, count, replace=False)
    kernel = rng.normal(size=(width, count))
    kernel -= kernel.mean(0)
    fill = (width - 1) * dilation // 2 if rng.integers(2) else 0
    series = np.pad(x[..., chosen], ((0, 0), (fill, fill), (0, 0)))
    steps = series.shape[1] - (width - 1) * dilation
    y = rng.uniform(-1, 1) + sum(
      series[:, i * dilation : i * dilation + steps] @ kernel[i]
      for i in range(width)
    )
    found += [y.max(1), (y > 0).mean(1)]
  return np.stack(found, 1)


def main() -> None:
  """Prints one line per data set."""
  for data in DATA:
    values = forecasts(data)
    text = "  ".join(f"{name} {x:.4f}" for name, x in values.items())
    print(
      f"{data.series} {data.look_back} to {data.horizon}: {text}", flush=True
    )
  text = "  ".join(f"{name} {x:.3f}" for name, x in classes().items())
  print(f"spoken vowels: {text}")


if __name__ == "__main__":
  main()
