"""Cross-entropy of the next token, with logits in chunks."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from train.losses.base import (
  Batch,
  Loss,
  Sums,
  check_smoothing,
  classified,
  keywords,
  smoothed,
  weighted,
)


@dataclasses.dataclass(frozen=True)
class NextToken(Loss):
  """Cross-entropy of targets `[B, L]` under logits `[B, L, V]`.

  Attributes:
    label_smoothing: Share of the uniform distribution in the targets, in
      [0, 1); Szegedy et al. 2016, arXiv:1512.00567.
    z_loss: Weight of the squared log of the softmax's denominator, 0 or more;
      Chowdhery et al. 2022 (PaLM), arXiv:2204.02311.
    chunk_size: Tokens per sequence whose logits are in memory at once; None for
      all. The model needs the methods `features` and `logits`, as
      `LanguageModel` has them. The gradient computes the logits of a chunk
      again, so a step takes a fourth product with the output table.
  """

  label_smoothing: float = 0.0
  z_loss: float = 0.0
  chunk_size: int | None = None

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "bits_per_token": "min",
    "accuracy": "max",
  }
  # What the loss reads of a batch.
  _arrays: ClassVar[tuple[str, ...]] = ("targets", "weights")

  def __post_init__(self) -> None:
    check_smoothing(self.label_smoothing)
    if not 0 <= self.z_loss < math.inf:
      raise ValueError(f"z_loss must be 0 or more, got {self.z_loss}")
    if self.chunk_size is not None and self.chunk_size < 1:
      raise ValueError(f"chunk_size must be positive, got {self.chunk_size}")

  def outputs(
    self, model: Any, variables: Any, batch: Batch, **options: Any
  ) -> tuple[Any, Any]:
    """Returns logits; with a chunk size, features and the function to logits.

    Raises:
      ValueError: There is a chunk size, and the model cannot be cut in two.
    """
    if self.chunk_size is None:
      return super().outputs(model, variables, batch, **options)
    if not hasattr(model, "features") or not hasattr(model, "logits"):
      raise ValueError(
        f"{type(model).__name__} has no methods features and logits, which"
        " the loss calls with a chunk_size: set it to None"
      )
    (features, _), changed = model.apply(
      variables,
      batch["inputs"],
      **keywords(batch),
      **options,
      method="features",
    )
    head = functools.partial(model.apply, variables, method="logits")
    return (features, head), changed

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; the metrics are "accuracy" and "cross_entropy"."""
    if self.chunk_size is None:
      return self._sums(outputs, batch)
    features, head = outputs
    return in_chunks(
      lambda x, batch: self._sums(head(x), batch),
      self.chunk_size,
      features,
      {name: batch[name] for name in self._arrays},
    )

  def _sums(self, logits: jax.Array, batch: Batch) -> Sums:
    logits = logits.astype(jnp.float32)
    found = classified(logits, batch["targets"])
    found = smoothed(found, logits, self.label_smoothing)
    if self.z_loss:
      found.setdefault("cross_entropy", found["loss"])
      square = jnp.square(jax.nn.logsumexp(logits, axis=-1))
      found["loss"] += self.z_loss * square
    return weighted(found, batch)

  def means(self, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Adds "bits_per_token", of the cross-entropy alone."""
    values = super().means(sums)
    loss = values.pop("loss")
    bits = values.get("cross_entropy", loss) / math.log(2)
    return {"loss": loss, "bits_per_token": bits, **values}


def in_chunks(
  function: Callable[[Any, Batch], Sums],
  size: int,
  features: Any,
  batch: Batch,
) -> Sums:
  """Adds up a function over chunks of L.

  The gradient keeps the features and computes each chunk again.

  Args:
    function: Maps features and a batch, both of one chunk, to sums.
    size: Tokens per chunk.
    features: One array `[B, L, D]` or several.
    batch: Arrays `[B, L, ...]`.
  """
  length = jax.tree.leaves(features)[0].shape[1]
  size = max(min(size, length), 1)
  whole = length // size * size
  function = jax.checkpoint(function)

  def part(start: int, stop: int) -> Any:
    return jax.tree.map(lambda x: x[:, start:stop], (features, dict(batch)))

  def cut(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

  def add(total: Sums, chunk: Any) -> tuple[Sums, None]:
    return jax.tree.map(jnp.add, total, function(*chunk)), None

  # The first chunk also gives the types of the sums inside a `shard_map`.
  total = function(*part(0, size))
  if whole > size:
    total, _ = jax.lax.scan(add, total, jax.tree.map(cut, part(size, whole)))
  return add(total, part(whole, length))[0] if whole < length else total
