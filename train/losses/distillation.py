"""Distillation: a student imitates a teacher."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from train.losses.base import Batch, Sums, weighted
from train.losses.tokens import NextToken


@dataclasses.dataclass(frozen=True)
class Distillation(NextToken):
  """Cross-entropy with a frozen teacher's distribution (Hinton et al. 2015).

  arXiv:1503.02531. The batch holds the teacher's logits `[B, L, V]` as
  "teacher_logits", beside the targets `[B, L]`. The loss is `share * T^2` times
  the divergence KL(teacher / T || student / T), a metric of its own, plus
  `1 - share` times the loss of `NextToken`.

  Attributes:
    temperature: T, by which both logits are divided; more than 0.
    share: Share of the teacher's part, in [0, 1].
  """

  temperature: float = 1.0
  share: float = 0.5

  _arrays: ClassVar[tuple[str, ...]] = ("targets", "weights", "teacher_logits")

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 < self.temperature < math.inf:
      raise ValueError(f"temperature must be positive, got {self.temperature}")
    if not 0 <= self.share <= 1:
      raise ValueError(f"share must be in [0, 1], got {self.share}")

  def _sums(self, logits: jax.Array, batch: Batch) -> Sums:
    sums = super()._sums(logits, batch)
    teacher = batch["teacher_logits"].astype(jnp.float32) / self.temperature
    student = logits.astype(jnp.float32) / self.temperature
    known, own = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    divergence = jnp.sum(jnp.exp(known) * (known - own), axis=-1)
    part = weighted({"divergence": divergence}, batch)["divergence"]
    sums.setdefault("cross_entropy", sums["loss"])
    strength = self.share * self.temperature**2
    loss = strength * part + (1.0 - self.share) * sums["loss"]
    return {**sums, "loss": loss, "divergence": part}
