"""The model of tables: its encodings, and the order of the columns."""

import jax
import numpy as np
import pytest

from jaxmodels.layers import MLP
from jaxmodels.models import Backbone, TabularModel
from jaxmodels.ops.engine import checks

RNG = np.random.default_rng(0)
X = {
  "numbers": RNG.uniform(-0.2, 1.2, (5, 3)).astype(np.float32),
  "categories": RNG.integers(0, 2, (5, 2)).astype(np.int32),
}
FIELDS = {
  "outputs": 2,
  "categories": (2, 3),
  "width": 4,
  "depth": 1,
  "bins": 3,
  "mlp": "none",
}
ALONE = TabularModel(mixers=(MLP(4),), **FIELDS)
IN_ORDER = TabularModel(mixers=("short_convolution",), **FIELDS)


def drawn(model):
  rng = np.random.default_rng(1)
  params = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
  return jax.tree.map(
    lambda p: 0.5 * rng.normal(size=p.shape).astype(p.dtype), params
  )


def run(model, params, x=X):
  return np.asarray(jax.jit(model.apply)({"params": params}, x)[0])


def encoded(p, encoding):
  """The tokens of X [5, 5, 4], number by number."""
  rows = []
  for numbers, categories in zip(X["numbers"], X["categories"], strict=True):
    tokens = []
    for i, x in enumerate(numbers):
      if encoding == "piecewise":
        e = [3 * x - q for q in range(3)]
        e = [min(e[0], 1), min(max(e[1], 0), 1), max(e[2], 0)]
      elif encoding == "periodic":
        angles = 2 * np.pi * p["frequencies"][i] * x
        e = [*np.sin(angles), *np.cos(angles)]
      else:
        e = [x]
      z = np.array(e) @ p["weight"][i] + p["bias"][i]
      tokens.append(np.maximum(z, 0) if encoding == "periodic" else z)
    first, second = categories
    table = p["categories_table"]
    rows.append([*tokens, table[first], table[2 + second]])
  return np.array(rows, np.float32)


def pooled(p, y, pooling):
  if pooling == "attention":
    scores = np.exp(y @ p["query"] / 2)
    return np.einsum("bj,bjd->bd", scores / scores.sum(1, keepdims=True), y)
  pools = {
    "mean": y.mean(1),
    "sum": y.sum(1),
    "max": y.max(1),
    "last": y[:, -1],
    "cls": y[:, -1],
  }
  return pools[pooling]


@pytest.mark.parametrize(
  ("encoding", "pooling"),
  [
    ("piecewise", "attention"),
    ("periodic", "cls"),
    pytest.param("linear", "sum", marks=pytest.mark.slow),
    pytest.param("linear", "max", marks=pytest.mark.slow),
    pytest.param("linear", "last", marks=pytest.mark.slow),
  ],
)
def test_outputs_follow_the_equation(encoding, pooling):
  model = ALONE.clone(encoding=encoding, pooling=pooling, interaction=True)
  p = drawn(model)
  z = np.einsum("ij,bjd->bid", p["interaction"], encoded(p, encoding))
  if pooling == "cls":
    z = np.concatenate([z, np.broadcast_to(p["cls"], (5, 1, 4))], 1)
  own = {name: p[name] for name in ("layer_0", "norm")}
  stack = Backbone(4, 1, (MLP(4),), mlp="none")
  y = jax.jit(stack.apply)({"params": own}, z)[0]
  y = pooled(p, np.asarray(y), pooling)
  wanted = y @ p["head"]["kernel"] + p["head"]["bias"]
  np.testing.assert_allclose(run(model, p), wanted, atol=1e-4)


def test_order_does_not_matter_for_maps_of_single_columns():
  p = drawn(ALONE)
  order = (3, 0, 4, 2, 1)
  np.testing.assert_allclose(
    run(ALONE, p), run(ALONE.clone(column_order=order), p), atol=1e-5
  )


def test_the_order_of_columns_permutes_the_sequence():
  """A reordered model reads what the plain model reads of another table."""
  p = drawn(IN_ORDER)
  model = IN_ORDER.clone(column_order=(2, 0, 1, 3, 4), pooling="last")
  order = np.array([2, 0, 1])
  other = {**p, "weight": p["weight"][order], "bias": p["bias"][order]}
  table = {**X, "numbers": X["numbers"][:, order]}
  y = run(model, p)
  plain = IN_ORDER.clone(pooling="last")
  np.testing.assert_allclose(y, run(plain, other, table), atol=1e-5)
  assert np.abs(y - run(plain, p)).max() > 1e-4


@pytest.mark.parametrize(
  ("change", "x", "match"),
  [
    (
      {"column_order": (0, 1, 2, 3, 3)},
      X,
      "column_order must have each of 0 t",
    ),
    ({"categories": (2,)}, X, "x has 2 columns of categories, and .* 1: give"),
    ({"categories": (2, 0)}, X, "categories must be numbers of at least 1"),
    ({"encoding": "binned"}, X, "encoding.*binned"),
    ({"pooling": "first"}, X, "pooling.*first"),
    ({}, {"number": X["numbers"]}, r"x must be a dictionary .*\['number'\]"),
    ({}, X["numbers"], "x must be a dictionary"),
    ({}, {**X, "categories": X["numbers"][:, :2]}, "must be integers"),
  ],
)
def test_the_error_names_what_is_wrong(change, x, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(ALONE.clone(**change).init, jax.random.key(0), x)


def test_guards_find_unknown_categories_and_missing_numbers():
  unknown = {**X, "categories": X["categories"] + np.array([[0, 3]], np.int32)}
  missing = {**X, "numbers": np.full((5, 3), np.nan, np.float32)}
  params = drawn(ALONE)
  with checks.numerics(arguments_only=True):
    for x, match in (
      (unknown, r"column 1 of categories must lie in \[0, 2\]"),
      (missing, "numbers must be finite"),
    ):
      with pytest.raises(ValueError, match=match):
        ALONE.apply({"params": params}, x)
