"""Metrics by position in the sequence, for every loss per token."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.losses import Batch, Loss, NextToken, Sums

# The names of sums `[L]` begin with this.
PREFIX = "position/"
# Float32 sums of the same terms in two orders differ by less, relatively.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class ByPosition(Loss):
  """A loss with sums per position, `[L]`, beside its own sums.

  A loss per token is a sum over tokens of a term times the token's weight. The
  term is therefore the derivative of the sum with respect to that weight. This
  holds for every such loss, a user's own among them, and needs no derivative of
  the model.

  Attributes:
    inner: The loss; it must be per token.
  """

  inner: Loss

  @property
  def per_token(self) -> bool:
    """False: `sums` needs whole sequences, on a mesh too."""
    return False

  def outputs(
    self, model: Any, variables: Any, batch: Batch, **options: Any
  ) -> tuple[Any, Any]:
    """See `Loss.outputs`."""
    loss = self.inner
    # Logits can be gathered over the shards of a sequence; the function that
    # computes them in chunks cannot.
    if getattr(model, "axis_name", None) is not None:
      loss = _without_chunks(loss)
    return loss.outputs(model, variables, batch, **options)

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """Returns the inner sums, and each of them per position."""
    leaves = jax.tree.leaves(outputs)
    loss = self.inner
    if not any(map(callable, leaves)):
      loss = _without_chunks(loss)
    weights = jnp.asarray(batch["weights"]).astype(jnp.float32)
    if weights.ndim == 1:
      weights = jnp.broadcast_to(weights[:, None], leaves[0].shape[:2])
    sums, pull_back = jax.vjp(
      lambda weights: loss.sums(outputs, {**batch, "weights": weights}), weights
    )
    zeros = jax.tree.map(jnp.zeros_like, sums)
    others = (0, *range(2, weights.ndim))
    found = dict(sums)
    for name, total in sums.items():
      (terms,) = pull_back({**zeros, name: jnp.ones_like(total)})
      found[PREFIX + name] = jnp.sum(terms * weights, axis=others)
    return found

  def means(self, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the inner means, and those per position where there are sums."""
    own, per_position = separated(sums)
    found = self.inner.means(per_position) if per_position else {}
    named = {PREFIX + name: x for name, x in found.items()}
    return {**self.inner.means(own), **named}


def _without_chunks(loss: Loss) -> Loss:
  if isinstance(loss, NextToken):
    return dataclasses.replace(loss, chunk_size=None)
  return loss


def separated(
  values: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the values of whole sequences, and those per position, by name."""
  whole = {k: v for k, v in values.items() if not k.startswith(PREFIX)}
  per_position = {
    k.removeprefix(PREFIX): v for k, v in values.items() if k not in whole
  }
  return whole, per_position


def add_up(sums: Mapping[str, Any]) -> bool:
  """Whether the sums per position add up to those of whole sequences.

  They do not where a user's loss is not linear in the weights.

  Args:
    sums: What `ByPosition.sums` returned, added up.
  """
  whole, per_position = separated(sums)
  return all(
    abs(np.sum(x) - whole[name])
    <= _ROUNDING * max(abs(whole[name]), np.sum(np.abs(x)))
    for name, x in per_position.items()
    if np.isfinite(whole[name])
  )


def edges(length: int) -> list[int]:
  """Returns the edges of buckets of positions: 0, 1, 4, 16, ..., length.

  Args:
    length: L, at least 1.
  """
  found = [0]
  edge = 1
  while edge < length:
    found.append(edge)
    edge *= 4
  return [*found, length]


def bucket_sums(
  per_position: Mapping[str, np.ndarray], bounds: Sequence[int]
) -> list[dict[str, np.ndarray]]:
  """Adds up sums `[L]` within each bucket.

  Args:
    per_position: Sums by name.
    bounds: What `edges` returned.
  """
  return [
    {name: np.sum(x[begin:stop]) for name, x in per_position.items()}
    for begin, stop in itertools.pairwise(bounds)
  ]
