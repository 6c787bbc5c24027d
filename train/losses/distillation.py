"""Distillation: a student imitates a teacher."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.losses.base import Batch, Sums, weighted
from train.losses.tokens import NextToken, in_chunks


class Teacher(NamedTuple):
  """A frozen model inside the step.

  Attributes:
    model: A module that the loss can call, like the model that is trained.
    variables: What its `apply` takes. They have no gradient, and neither
      optimizers nor checkpoints hold them.
    step: The step of the checkpoint that the variables are from; None if they
      are from no checkpoint.
    layers: The first axes of its variables along which a scan stacks layers:
      see `train.devices.parameter_use.layer_axes`.
  """

  model: nn.Module
  variables: Any
  step: int | None = None
  layers: Any = None


@dataclasses.dataclass(frozen=True)
class Distillation(NextToken):
  """Cross-entropy with a frozen teacher's distribution (Hinton et al. 2015).

  arXiv:1503.02531. The loss is `share * T^2` times the divergence
  KL(teacher / T || student / T), a metric of its own, plus `1 - share` times
  the loss of `NextToken`.

  With a `teacher`, every step and every validation runs the teacher on the
  batch, without dropout. Its variables are on the devices once, sharded like
  parameters. Checkpoints do not hold them: a run that resumes loads them again,
  and refuses a teacher whose variables have changed. Without a `teacher`, the
  batch holds the logits `[B, L, V]` as "teacher_logits".

  Attributes:
    temperature: T, by which both logits are divided; more than 0.
    share: Share of the teacher's part, in [0, 1].
    teacher: The directory of a run, or of a checkpoint in the Hugging Face
      layout, or an object of your own with a method `load()`, which returns a
      module and its variables; None if the batch holds the logits. The model
      reads the same tokens as the student, and returns logits of the same
      vocabulary.
    teacher_step: Which checkpoint of the directory: "latest", "best", or a
      step.
  """

  temperature: float = 1.0
  share: float = 0.5
  teacher: Any = None
  teacher_step: str = "latest"

  _arrays: ClassVar[tuple[str, ...]] = ("targets", "weights", "teacher_logits")

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 < self.temperature < math.inf:
      raise ValueError(f"temperature must be positive, got {self.temperature}")
    if not 0 <= self.share <= 1:
      raise ValueError(f"share must be in [0, 1], got {self.share}")

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; the metrics are those of `NextToken` and "divergence".

    With a teacher, the outputs are the pair of the student's and the teacher's.
    """
    if self.teacher is None:
      return super().sums(outputs, batch)
    student, teacher = outputs
    if self.chunk_size is None:
      return self._sums(student, {**batch, "teacher_logits": teacher})
    (features, head), (known, known_head) = student, teacher

    def chunk(features: tuple[jax.Array, jax.Array], batch: Batch) -> Sums:
      own, known = features
      logits = known_head(known)
      return self._sums(head(own), {**batch, "teacher_logits": logits})

    return in_chunks(
      chunk,
      self.chunk_size,
      (features, known),
      {name: batch[name] for name in NextToken._arrays},
    )

  def _sums(self, logits: jax.Array, batch: Batch) -> Sums:
    sums = super()._sums(logits, batch)
    teacher = batch["teacher_logits"].astype(jnp.float32) / self.temperature
    if teacher.shape != logits.shape:
      raise ValueError(
        f"the teacher's logits have shape {teacher.shape}, the model's"
        f" {logits.shape}: they must be equal"
      )
    student = logits.astype(jnp.float32) / self.temperature
    known, own = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    divergence = jnp.sum(jnp.exp(known) * (known - own), axis=-1)
    part = weighted({"divergence": divergence}, batch)["divergence"]
    sums.setdefault("cross_entropy", sums["loss"])
    strength = self.share * self.temperature**2
    loss = strength * part + (1.0 - self.share) * sums["loss"]
    return {**sums, "loss": loss, "divergence": part}
