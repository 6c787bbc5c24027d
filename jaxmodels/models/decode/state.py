"""The state of generation, and functions of its rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import checks

__all__ = ["DecodeState", "Rows", "keys_of", "rows_of"]


class DecodeState(NamedTuple):
  """The state of generation of B rows of text.

  Attributes:
    model: The state of the model after all tokens but the last one.
    token: [B] int32, the last token of each row. The model has not read it.
    position: [B] int32, the tokens that the model has read.
    drawn: [B] int32, the tokens that were drawn.
    key: [B, 2] uint32, the random key of each row. Draw n of a row uses the
      key, n and the row's tokens, so it does not depend on the other rows.
    seen: [B, V] bool, the tokens that occur in each row.
  """

  model: Any
  token: jax.Array
  position: jax.Array
  drawn: jax.Array
  key: jax.Array
  seen: jax.Array


class Rows(NamedTuple):
  """The axis of each leaf of a model's state that numbers the rows.

  Attributes:
    axes: An int per leaf, in the order of `jax.tree.leaves`; -1 for a leaf
      that all rows share.
  """

  axes: tuple[int, ...]

  def where(self, take: jax.Array, new: Any, old: Any) -> Any:
    """The rows of `new` where `take` [B] is true, else those of `old`."""

    def choose(axis: int, a: jax.Array, b: jax.Array) -> jax.Array:
      if axis < 0:
        return a
      shape = [1] * a.ndim
      shape[axis] = take.size
      return jnp.where(take.reshape(shape), a, b)

    return self._map(choose, new, old)

  def take(self, state: Any, rows: jax.Array) -> Any:
    """The state of the given rows, [B'] int32."""
    return self._map(
      lambda axis, x: x if axis < 0 else jnp.take(x, rows, axis), state
    )

  def pick(self, states: Any, index: jax.Array) -> Any:
    """Row b of state `index[b]`; the states are stacked along a first axis."""

    def choose(axis: int, x: jax.Array) -> jax.Array:
      moved = jnp.moveaxis(x, axis + 1, 1)
      own = moved[index, jnp.arange(index.size)]
      return jnp.moveaxis(own, 0, axis)

    return self._map(choose, states)

  def _map(self, function: Any, first: Any, *rest: Any) -> Any:
    leaves, structure = jax.tree.flatten(first)
    others = [jax.tree.leaves(tree) for tree in rest]
    results = map(function, self.axes, leaves, *others)
    return jax.tree.unflatten(structure, list(results))


def rows_of(model: nn.Module) -> Rows:
  """Finds the axis of the rows by comparing states of 2 and of 3 rows."""
  # `nn.Module` does not declare the `init_state` of sequence models.
  init_state = cast(Any, model).init_state
  two, three = (
    jax.tree.leaves(jax.eval_shape(lambda size=size: init_state(size)))
    for size in (2, 3)
  )
  return Rows(tuple(map(_axis, two, three)))


def _axis(two: Any, three: Any) -> int:
  sizes = zip(two.shape, three.shape, strict=True)
  differ = [axis for axis, (a, b) in enumerate(sizes) if a != b]
  checks.require(
    len(differ) <= 1,
    "Decoder: a leaf of the model's state must have one axis of the size of "
    f"the batch, got shapes {two.shape} for 2 rows and {three.shape} for 3",
  )
  return differ[0] if differ else -1


def keys_of(seeds: Sequence[int]) -> jax.Array:
  """The keys [B, 2] of seeds, the same on every platform."""
  # Other kinds of keys draw other numbers under `vmap` than alone.
  keys = [jax.random.key(int(seed), impl="threefry2x32") for seed in seeds]
  return jnp.stack([jax.random.key_data(key) for key in keys])


def seen_in(rows: Sequence[Sequence[int]], vocab_size: int) -> np.ndarray:
  """Which tokens occur in each row, [B, V] bool."""
  seen = np.zeros((len(rows), vocab_size), bool)
  for own, tokens in zip(seen, rows, strict=True):
    own[np.asarray(tokens, np.int64)] = True
  return seen
