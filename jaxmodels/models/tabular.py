"""Mambular: the columns of a table as a sequence."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.mixers.registry import pick
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.ops.engine import checks

__all__ = ["TabularModel"]

ENCODINGS = ("linear", "periodic", "piecewise")
POOLINGS = ("mean", "last", "sum", "max", "attention", "cls")


class TabularModel(Backbone, kw_only=True):
  """Numbers or logits from a row of a table: columns are tokens.

  Column i of the N columns of numbers, and column m of the M columns of
  categories, are tokens of width D:

    z_i = W_i e(x_i) + b_i;    z_m = E_m[category_m]
    y = V pool_j(stack(I z)_j) + c

  The encoding e of a number is

  - "linear": the number itself;
  - "periodic": sin and cos of 2 pi f_k x for `bins` learned frequencies f_k per
    column, initially normal with the deviation `frequency`, and W_i e + b_i is
    followed by a ReLU (Gorishniy et al. 2022, arXiv:2203.05556);
  - "piecewise": (Q x - q) clipped to [0, 1] for q = 0, ..., Q - 1, with Q of
    `bins`; the first is not clipped below 0, nor the last above 1. For numbers
    that are quantiles, as `train.data.tasks.Columns` makes them, these are the
    piecewise linear encodings of Gorishniy et al. with bins between quantiles.

  The pooling is the mean, the last column, the sum, the maximum, "attention"
  (softmax of a learned query, initially zero: see `Classifier`), or "cls": one
  learned token after the last column, whose output counts.

  Thielmann et al. 2024, "Mambular: A Sequential Model for Tabular Deep
  Learning", arXiv:2408.06291, with Mamba, the mean and piecewise encodings. Its
  bins come from decision trees, here from quantiles. I is the learned
  interaction of columns of its ablation, here a matrix [J, J] over the columns,
  initially the identity, before the first layer. Departures: no dropout, and
  one dense map as head.

  With the mean or the sum, layers that map each column alone and no
  interaction, the order of the columns does not matter.

  It is a `Backbone`, whose fields are its other fields.

  Attributes:
    outputs: The number of classes or of numbers to predict.
    categories: Per column of categories, how many there are.
    encoding: "linear", "periodic" or "piecewise".
    bins: Bins, or frequencies, per column of numbers.
    frequency: The deviation of initial frequencies.
    pooling: As above.
    column_order: The places of the columns in the order in which they are read,
      numbers before categories; None for that of the table.
    interaction: Whether there is I.
  """

  outputs: int
  categories: tuple[int, ...] = ()
  encoding: str = "piecewise"
  bins: int = 16
  frequency: float = 1.0
  pooling: str = "mean"
  column_order: tuple[int, ...] | None = None
  interaction: bool = False

  @nn.compact
  def __call__(
    self,
    x: Any,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Predicts.

    Args:
      x: "numbers" [B, N], real floating point, and "categories" [B, M],
        integers of at least 0 and below the field `categories`. A table without
        columns of a kind has no such entry.
      state: None: a row is a whole.
      segment_ids: None, too.

    Returns:
      Numbers or logits [B, outputs] in float32 or wider, and the state of the
      stack after the last column.

    Raises:
      ValueError: A field or an argument is wrong; the message names it in one
        line. A number that is not finite, or an unknown category, is found
        under `jaxmodels.ops.engine.checks.numerics`.
    """
    check_fields(self, "outputs", "bins")
    pick("encoding", self.encoding, dict.fromkeys(ENCODINGS))
    pick("pooling", self.pooling, dict.fromkeys(POOLINGS))
    for what, value in (("state", state), ("segment_ids", segment_ids)):
      checks.require(
        value is None, f"TabularModel: {what} must be None: a row is a whole"
      )
    checks.require(
      self.axis_name is None,
      "TabularModel: tables cannot be sharded along their columns: use a mesh "
      "without the axis sequence",
    )
    z = self._ordered(self._tokens(x))
    if self.interaction:
      matrix = self.param("interaction", _identity, (z.shape[1],) * 2)
      z = jnp.einsum("ij,bjd->bid", matrix.astype(z.dtype), z)
    if self.pooling == "cls":
      cls = self._table("cls", (1, 1, self.width), 1.0)
      cls = jnp.broadcast_to(cls, (len(z), 1, self.width))
      z = jnp.concatenate([z, cls.astype(z.dtype)], 1)
    y, state = super().__call__(z)
    head = projection(
      self, self.outputs, "head", scale=0.1, use_bias=True, dtype=z.dtype
    )
    return head(self._pooled(y.astype(z.dtype))), state

  def _tokens(self, x: Any) -> jax.Array:
    """The tokens [B, J, D] of all columns, in the order of the table."""
    checks.require(
      isinstance(x, Mapping)
      and set(x) <= {"numbers", "categories"}
      and bool(x),
      "TabularModel: x must be a dictionary with 'numbers', 'categories' or "
      f"both, got {sorted(x) if isinstance(x, Mapping) else type(x).__name__}",
    )
    parts = []
    if "numbers" in x:
      numbers = x["numbers"]
      checks.shape("TabularModel", "numbers", numbers, (None, None), "[B, N]")
      checks.dtype(
        "TabularModel", "numbers", numbers, jnp.floating, "real floating point"
      )
      checks.finite("TabularModel", numbers=numbers)
      parts.append(self._of_numbers(numbers.astype(wide(self.dtype))))
    given = x.get("categories")
    count = 0 if given is None else given.shape[-1]
    checks.require(
      count == len(self.categories),
      f"TabularModel: x has {count} columns of categories, and the field "
      f"categories {len(self.categories)}: give the number of categories of "
      "each column",
    )
    if given is not None:
      checks.shape("TabularModel", "categories", given, (None, None), "[B, M]")
      checks.dtype("TabularModel", "categories", given, jnp.integer, "integers")
      parts.append(self._of_categories(given))
    return jnp.concatenate(parts, 1)

  def _of_numbers(self, x: jax.Array) -> jax.Array:
    """[B, N, D] of numbers [B, N]."""
    columns, x = x.shape[1], x[..., None]
    if self.encoding == "periodic":
      shape = (columns, self.bins)
      f = self._table("frequencies", shape, self.frequency).astype(x.dtype)
      angle = 2 * math.pi * f[None] * x
      x = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
    elif self.encoding == "piecewise":
      q = jnp.arange(self.bins, dtype=x.dtype)[None, None]
      low = jnp.where(q == 0, -jnp.inf, 0.0)
      high = jnp.where(q == self.bins - 1, jnp.inf, 1.0)
      x = jnp.clip(self.bins * x - q, low, high)
    inputs = x.shape[-1]
    weight = self._table(
      "weight", (columns, inputs, self.width), inputs**-0.5
    ).astype(x.dtype)
    bias = self._table("bias", (columns, self.width), 1.0).astype(x.dtype)
    z = jnp.einsum("bne,ned->bnd", x, weight) + bias[None]
    return nn.relu(z) if self.encoding == "periodic" else z

  def _of_categories(self, given: jax.Array) -> jax.Array:
    """[B, M, D] of categories [B, M]."""
    sizes = np.array(self.categories)
    checks.require(
      bool(np.all(sizes >= 1)),
      "TabularModel: categories must be numbers of at least 1, got "
      f"{self.categories}",
    )
    for i, size in enumerate(self.categories):
      name = f"column {i} of categories"
      checks.between("TabularModel", name, given[:, i], 0, size - 1)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    table = self._table("categories_table", (int(sizes.sum()), self.width), 1.0)
    rows = given + jnp.asarray(starts, given.dtype)[None]
    return jnp.take(table, rows, axis=0).astype(wide(self.dtype))

  def _ordered(self, z: jax.Array) -> jax.Array:
    """The tokens in `column_order`."""
    if self.column_order is None:
      return z
    columns = z.shape[1]
    checks.require(
      sorted(self.column_order) == list(range(columns)),
      f"TabularModel: column_order must have each of 0 to {columns - 1} once, "
      f"got {self.column_order}",
    )
    return z[:, np.array(self.column_order)]

  def _pooled(self, y: jax.Array) -> jax.Array:
    """One vector [B, D] per row of y [B, J, D]."""
    if self.pooling in ("last", "cls"):
      return y[:, -1]
    if self.pooling == "attention":
      query = self._table("query", (self.width,), 0.0).astype(y.dtype)
      scores = jnp.einsum("bjd,d->bj", y, query) / math.sqrt(self.width)
      return jnp.einsum("bj,bjd->bd", nn.softmax(scores), y)
    pools: dict[str, Callable[..., jax.Array]] = {
      "mean": jnp.mean,
      "sum": jnp.sum,
      "max": jnp.max,
    }
    return pools[self.pooling](y, axis=1)

  def _table(
    self, name: str, shape: tuple[int, ...], deviation: float
  ) -> jax.Array:
    """A normal parameter."""
    init = nn.initializers.normal(deviation)
    return self.param(name, init, shape, self.param_dtype)


def _identity(
  key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  del key
  return jnp.eye(shape[0], dtype=dtype)
