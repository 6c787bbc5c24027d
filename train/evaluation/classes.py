"""The confusion matrix of a classification."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.losses import Batch, Classification, Loss, Sums

# The name of the matrix among the sums.
CONFUSION = "class/confusion"
# The most classes of which there is a matrix.
_MOST = 20


@dataclasses.dataclass(frozen=True)
class ByClass(Loss):
  """A classification with its confusion matrix beside its own sums.

  Entry [i, j] of the matrix [C, C] is the summed weight of the sequences of
  class i whose predicted class is j. With more than 20 classes there is none.

  Attributes:
    inner: The loss.
  """

  inner: Classification

  @property
  def per_token(self) -> bool:
    """False: a class belongs to a whole sequence."""
    return False

  def outputs(
    self, model: Any, variables: Any, batch: Batch, **options: Any
  ) -> tuple[Any, Any]:
    """See `Loss.outputs`."""
    return self.inner.outputs(model, variables, batch, **options)

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """Returns the inner sums, and the matrix."""
    found = self.inner.sums(outputs, batch)
    logits = self.inner.logits(outputs, batch)
    classes = logits.shape[-1]
    if classes > _MOST:
      return found
    weights = jnp.asarray(batch["weights"]).astype(jnp.float32)
    weights = jnp.expand_dims(weights, range(weights.ndim, logits.ndim))
    hot = jax.nn.one_hot(batch["targets"], classes) * weights
    chosen = jax.nn.one_hot(jnp.argmax(logits, axis=-1), classes)
    matrix = jnp.einsum("...i,...j->ij", hot, chosen)
    return {**found, CONFUSION: matrix}

  def means(self, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the inner means, and the matrix as it is."""
    own = {name: x for name, x in sums.items() if name != CONFUSION}
    matrix = {name: x for name, x in sums.items() if name == CONFUSION}
    return {**self.inner.means(own), **matrix}
