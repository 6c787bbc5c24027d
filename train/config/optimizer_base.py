"""The fields that all optimizers of configs share, and what they build."""

import abc
import dataclasses
import math

import optax

from train.config.checks import (
  MOST_SEED,
  REAL,
  Fields,
  as_float32,
  is_real,
)
from train.config.groups import Group, matches
from train.config.schedules import Cosine, Schedule
from train.optimizer import (
  add_noise,
  average_params,
  by_path,
  clip_by_global_norm,
  scale_by_path,
  sharpness_aware,
)
from train.parameters import rank

SHARE = "more than 0 and less than 1 in float32"


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
  """What all optimizers have in common.

  The gradient is clipped, noise is added, `scaling` turns it into a step, the
  decay is added, and the learning rate multiplies the sum.

  Attributes:
    learning_rate: The highest rate, at the end of the warm-up.
    warmup_steps: Steps of the linear rise from 0.
    schedule: What follows the warm-up.
    weight_decay: Decoupled decay, scaled by the rate.
    decay_paths: Patterns of the paths of parameters that decay; those of fewer
      than two axes never do. So norms, biases, embeddings and the decay rates
      of a recurrence are left alone. See `Group.paths`.
    groups: Parameters with a rate and a decay of their own, such as
      `STATE_SPACE`.
    clip: The global norm that gradients are scaled down to; None for none.
    ema: Decay of an exponential moving average of the parameters, such as
      0.999; None for none. Validation, samples and the choice of the best
      checkpoint use the average. It is float32 and costs 4 bytes per parameter.
    noise: Variance of the normal noise that is added to the clipped
      gradient; at update t it is divided by t^0.55 (Neelakantan et al. 2015,
      arXiv:1511.06807). None for none.
    noise_seed: Seed of the noise.
    sam_radius: Length of the step up along the gradient before the gradient is
      taken, as in sharpness-aware minimization (Foret et al. 2020,
      arXiv:2010.01412), such as 0.05; a step then takes two gradients of its
      batch. None for none.
  """

  learning_rate: float = 1e-3
  warmup_steps: int = 100
  schedule: Schedule = dataclasses.field(default_factory=Cosine)
  weight_decay: float = 0.1
  decay_paths: tuple[str, ...] = ("*/kernel",)
  groups: tuple[Group, ...] = ()
  clip: float | None = 1.0
  ema: float | None = None
  noise: float | None = None
  noise_seed: int = 0
  sam_radius: float | None = None

  @abc.abstractmethod
  def scaling(self) -> optax.GradientTransformation:
    """Returns the transformation of a gradient into a step of rate 1.

    The step is not negated.
    """

  def rate(self, steps: int) -> optax.Schedule:
    """Returns the learning rate by the number of updates so far.

    Args:
      steps: Updates in the run.
    """
    share = self.schedule.rate(steps, self.warmup_steps)
    return lambda count: self.learning_rate * share(count)

  def depends_on_steps(self) -> bool:
    """Says whether another number of steps in the run changes an update."""
    return self.schedule.depends_on_steps()

  def decays(self, path: str, shape: tuple[int, ...]) -> bool:
    """Says whether a parameter decays.

    Args:
      path: Its names, joined by slashes.
      shape: Its shape.
    """
    group = self._group(path, shape)
    if group is not None and group.decay is not None:
      return group.decay
    return rank(path, shape) >= 2 and matches(path, self.decay_paths)

  def _group(self, path: str, shape: tuple[int, ...]) -> Group | None:
    return next((g for g in self.groups if g.has(path, shape)), None)

  def _factor(self, path: str, shape: tuple[int, ...]) -> float:
    group = self._group(path, shape)
    return 1.0 if group is None else group.rate

  def descent(self, steps: int) -> optax.GradientTransformation:
    """Returns the transformation without `sam_radius` and `ema`."""
    parts = []
    if self.clip is not None:
      parts.append(clip_by_global_norm(self.clip))
    if self.noise is not None:
      parts.append(add_noise(self.noise, self.noise_seed))
    parts.append(self.scaling())
    parts.append(
      optax.add_decayed_weights(
        self.weight_decay, lambda params: by_path(self.decays, params)
      )
    )
    if self.groups:
      parts.append(scale_by_path(self._factor))
    parts.append(optax.scale_by_learning_rate(self.rate(steps)))
    return optax.chain(*parts)

  def transformation(self, steps: int) -> optax.GradientTransformation:
    """Returns the transformation of gradients into updates.

    Args:
      steps: Updates in the run.
    """
    inner = self.descent(steps)
    if self.sam_radius is not None:
      inner = sharpness_aware(inner, self.sam_radius)
    if self.ema is not None:
      inner = average_params(inner, self.ema)
    return inner

  def check(self, key: str = "optimizer") -> None:
    """Raises a UserError that names the first field with a wrong value.

    Args:
      key: The dotted path of the optimizer, without "config.".
    """
    fields = Fields(self, key)
    fields.positive("learning_rate")
    # The user means an infinite decay; a finite number that float32 makes
    # infinite is a mistake. The step refuses its update and keeps the state.
    decay = self.weight_decay
    fields.require(
      0 <= as_float32(decay) < math.inf or decay == math.inf,
      "weight_decay",
      "0 or more and finite in float32",
    )
    for name in ("clip", "noise", "sam_radius"):
      fields.optional(is_real, name, REAL)
    fields.optional(lambda x: 0 < as_float32(x) < 1, "ema", SHARE)
    fields.count("warmup_steps")
    wanted = f"0 to {MOST_SEED}"
    seed = self.noise_seed
    fields.require(0 <= seed <= MOST_SEED, "noise_seed", wanted)
    self.schedule.check(f"{key}.schedule", self.warmup_steps)
    for i, group in enumerate(self.groups):
      group.check(f"{key}.groups.{i}")
