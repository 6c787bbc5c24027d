"""Baselines of `configs/points`: scikit-learn on descriptors of clouds.

python -m benchmarks.points

A cloud is described by the eigenvalues of its covariance, a histogram of the
distances to its centroid, and one of the distances between its points (the
shape distribution D2 of Osada et al. 2002), all in units of its radius. A point
of a scene is described by the eigenvalues of the covariance of its 8, 32 and
100 nearest points and the distance of their mean. None of these depends on
place or rotation, and those of clouds not on size. They are classified by
logistic regression and by nearest neighbours, trained on the first 4,000 clouds
or 200 scenes of the training split of the configs, and measured on the first
500 clouds or 200 scenes of the validation split.

The docstrings of the configs have the figures. It takes about a minute of one
core.
"""

import numpy as np

from train.data.tasks import SceneClouds, ShapeClouds

_CLOUDS, _SCENES = 4_000, 200


def describe_cloud(points: np.ndarray) -> np.ndarray:
  """51 numbers that describe a cloud [N, 3]."""
  x = points - points.mean(0)
  radius = np.linalg.norm(x, axis=1)
  x, radius = x / radius.max(), radius / radius.max()
  i, j = np.triu_indices(len(x), 1)
  gaps = np.linalg.norm(x[i] - x[j], axis=1)
  near = np.histogram(radius, 16, (0, 1))[0] / len(x)
  far = np.histogram(gaps, 32, (0, 2))[0] / len(gaps)
  return np.concatenate([np.linalg.eigvalsh(x.T @ x / len(x)), near, far])


def describe_points(points: np.ndarray) -> np.ndarray:
  """12 numbers for each point of a scene [N, 3]."""
  gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
  order, found = np.argsort(gaps, 1), []
  for count in (8, 32, 100):
    near = points[order[:, :count]]
    mean = near.mean(1)
    x = near - mean[:, None]
    covariance = np.einsum("nki,nkj->nij", x, x) / count
    found.append(np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0)))
    found.append(np.linalg.norm(points - mean, axis=1)[:, None])
  return np.hstack(found)


def _report(name, train, validation, neighbors) -> None:
  """Prints the accuracy of two classifiers."""
  from sklearn.linear_model import LogisticRegression
  from sklearn.neighbors import KNeighborsClassifier
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  for model in (
    LogisticRegression(max_iter=2000, C=10),
    KNeighborsClassifier(neighbors),
  ):
    fitted = make_pipeline(StandardScaler(), model).fit(*train)
    kind = type(model).__name__
    print(f"{name}  {kind:22} accuracy {fitted.score(*validation):.3f}")


def _clouds(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
  rows = ShapeClouds().open(split)
  drawn = [rows[i] for i in range(min(count, len(rows)))]
  return (
    np.stack([describe_cloud(row["inputs"]) for row in drawn]),
    np.stack([row["targets"] for row in drawn]),
  )


def _scenes(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
  rows = SceneClouds(points=300, kinds=5, upright=True).open(split)
  drawn = [rows[i] for i in range(min(count, len(rows)))]
  return (
    np.concatenate([describe_points(row["inputs"]) for row in drawn]),
    np.concatenate([row["targets"] for row in drawn]),
  )


def main() -> None:
  """Prints the table."""
  for name, read, count, neighbors in (
    ("shapes", _clouds, _CLOUDS, 1),
    ("scenes", _scenes, _SCENES, 15),
  ):
    _report(name, read("train", count), read("validation", count), neighbors)


if __name__ == "__main__":
  main()
