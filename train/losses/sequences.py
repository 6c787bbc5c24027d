"""Losses of whole sequences or of numbers: classification and regression."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxmodels.models.lora import LoRA
from train.losses.base import (
  Batch,
  Loss,
  Sums,
  check_smoothing,
  classified,
  inverse,
  smoothed,
  weighted,
)

POOLINGS = ("none", "mean", "last")


def _pooled(outputs: jax.Array, batch: Batch, pooling: str) -> jax.Array:
  """One vector per sequence of outputs `[B, L, C]`.

  The batch may have a "mask" `[B, L]`: true where a position counts.
  """
  mask = batch.get("mask")
  if pooling == "none":
    return outputs
  if mask is None:
    return outputs[:, -1] if pooling == "last" else jnp.mean(outputs, axis=1)
  if pooling == "last":
    places = jnp.arange(outputs.shape[1])[None]
    last = jnp.max(jnp.where(mask.astype(bool), places, 0), axis=1)
    return jnp.take_along_axis(outputs, last[:, None, None], axis=1)[:, 0]
  share = mask.astype(outputs.dtype)
  share *= inverse(jnp.sum(share, axis=1, keepdims=True))
  return jnp.einsum("blc,bl->bc", outputs, share)


def _check_pooling(pooling: str) -> None:
  if pooling not in POOLINGS:
    raise ValueError(
      f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}"
    )


@dataclasses.dataclass(frozen=True)
class Classification(Loss):
  """Cross-entropy of one class per sequence, targets `[B]`.

  With the pooling "none", targets may also be `[B, S]`, one per segment.

  Attributes:
    pooling: How logits `[B, L, C]` become `[B, C]`: "mean" over the sequence,
      or "last", those of its last token. A batch may have a "mask" `[B, L]` of
      the positions that count. "none" for a model that returns `[B, C]`,
      such as `jaxmodels.models.Classifier`, which takes the mask itself.
    label_smoothing: As in `NextToken`.
  """

  pooling: str = "mean"
  label_smoothing: float = 0.0

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "accuracy": "max",
  }

  @property
  def per_token(self) -> bool:
    """False: a class belongs to a whole sequence."""
    return False

  def __post_init__(self) -> None:
    _check_pooling(self.pooling)
    check_smoothing(self.label_smoothing)

  def outputs(
    self, model: Any, variables: Any, batch: Batch, **options: Any
  ) -> tuple[Any, Any]:
    """See `Loss.outputs`; a model whose call takes a mask gets that too."""
    own = model.model if isinstance(model, LoRA) else model
    if "mask" in batch and "mask" in inspect.signature(own.__call__).parameters:
      options["mask"] = batch["mask"]
    return super().outputs(model, variables, batch, **options)

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; the metric is "accuracy"."""
    logits = _pooled(outputs.astype(jnp.float32), batch, self.pooling)
    found = classified(logits, batch["targets"])
    return weighted(smoothed(found, logits, self.label_smoothing), batch)


def _huber(error: jax.Array) -> jax.Array:
  """Quadratic up to an error of 1, linear beyond."""
  size = jnp.abs(error)
  return jnp.where(size <= 1.0, 0.5 * jnp.square(error), size - 0.5)


_ERRORS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "squared": jnp.square,
  "absolute": jnp.abs,
  "huber": _huber,
}


@dataclasses.dataclass(frozen=True)
class Regression(Loss):
  """Errors of outputs against real targets, averaged over their channels.

  Attributes:
    error: "squared", "absolute" or "huber" (quadratic up to 1).
    pooling: "none" for targets `[B, L, C]`, of each token; "mean" or "last" for
      targets `[B, C]` of outputs `[B, L, C]`, as in `Classification`.
  """

  error: str = "squared"
  pooling: str = "none"

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "squared_error": "min",
    "absolute_error": "min",
  }

  def __post_init__(self) -> None:
    if self.error not in _ERRORS:
      raise ValueError(
        f"error must be one of {', '.join(_ERRORS)}, got {self.error!r}"
      )
    _check_pooling(self.pooling)

  @property
  def per_token(self) -> bool:
    """Whether every token has a target of its own."""
    return self.pooling == "none"

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; the metrics are squared and absolute errors.

    Raises:
      ValueError: Outputs and targets have different shapes.
    """
    outputs = _pooled(outputs.astype(jnp.float32), batch, self.pooling)
    targets = batch["targets"].astype(jnp.float32)
    if outputs.shape != targets.shape:
      raise ValueError(
        f"the outputs have shape {outputs.shape}, the targets {targets.shape}:"
        " they must be equal"
      )
    error = outputs - targets
    found = {
      "loss": _ERRORS[self.error](error),
      "squared_error": jnp.square(error),
      "absolute_error": jnp.abs(error),
    }
    found = {name: jnp.mean(x, axis=-1) for name, x in found.items()}
    return weighted(found, batch)
