"""Optimizers: frozen dataclasses that build an optax transformation.

All have the fields of `Optimizer` and add their own. Anything else that optax
can do enters as a frozen dataclass of your own with a method
`transformation(steps)` that returns it:

  @dataclasses.dataclass(frozen=True)
  class Yogi:
    learning_rate: float = 1e-2

    def transformation(self, steps):
      return optax.yogi(self.learning_rate)

A method `rate(steps)`, which returns the learning rate by the number of updates
so far, adds the rate to the metrics.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import optax
from optax import contrib

from train.config.checks import (
  MOST_SEED,
  REAL,
  Fields,
  as_float32,
  is_real,
)
from train.config.groups import Group, matches
from train.config.schedules import Constant, Cosine, Schedule
from train.optimizer import (
  add_noise,
  average_params,
  by_path,
  clip_by_global_norm,
  layerwise,
  scale_by_path,
  sharpness_aware,
)
from train.parameters import rank

_SHARE = "more than 0 and less than 1 in float32"


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
    noise_seed: Of the noise.
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
    """Returns what turns a gradient into a step of the rate 1, not negated."""

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
    # An infinite decay is what it says; a number that only float32 makes
    # infinite is a mistake. The step refuses its update and keeps the state.
    decay = self.weight_decay
    fields.require(
      0 <= as_float32(decay) < math.inf or decay == math.inf,
      "weight_decay",
      "0 or more and finite in float32",
    )
    for name in ("clip", "noise", "sam_radius"):
      fields.optional(is_real, name, REAL)
    fields.optional(lambda x: 0 < as_float32(x) < 1, "ema", _SHARE)
    fields.count("warmup_steps")
    wanted = f"0 to {MOST_SEED}"
    seed = self.noise_seed
    fields.require(0 <= seed <= MOST_SEED, "noise_seed", wanted)
    self.schedule.check(f"{key}.schedule", self.warmup_steps)
    for i, group in enumerate(self.groups):
      group.check(f"{key}.groups.{i}")


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
  """Adam with decoupled decay (Loshchilov & Hutter 2017, arXiv:1711.05101).

  Attributes:
    b1: Decay of the first moment.
    b2: Decay of the second moment.
    epsilon: Added to the root of the second moment.
  """

  b1: float = 0.9
  b2: float = 0.95
  epsilon: float = 1e-8

  def scaling(self) -> optax.GradientTransformation:
    """See `Optimizer.scaling`."""
    return optax.scale_by_adam(self.b1, self.b2, self.epsilon)

  def check(self, key: str = "optimizer") -> None:
    """See `Optimizer.check`."""
    super().check(key)
    fields = Fields(self, key)
    fields.positive("epsilon")
    fields.fraction("b1", "b2")


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
  """The sign of a momentum (Chen et al. 2023, arXiv:2302.06675).

  Its steps are larger than those of Adam: take a rate that is 3 to 10 times
  as small and a decay that is as many times as large.

  Attributes:
    b1: Weight of the momentum, against that of the gradient, in the step.
    b2: Decay of the momentum.
  """

  learning_rate: float = 1e-4
  weight_decay: float = 1.0
  b1: float = 0.9
  b2: float = 0.99

  def scaling(self) -> optax.GradientTransformation:
    """See `Optimizer.scaling`."""
    return optax.scale_by_lion(self.b1, self.b2)

  def check(self, key: str = "optimizer") -> None:
    """See `Optimizer.check`."""
    super().check(key)
    Fields(self, key).fraction("b1", "b2")


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
  """Gradient descent with momentum; the decay is decoupled from both.

  Attributes:
    momentum: Decay of the sum of gradients; 0 for none.
    nesterov: Whether the step looks ahead along the momentum.
  """

  learning_rate: float = 0.1
  weight_decay: float = 5e-4
  momentum: float = 0.9
  nesterov: bool = False

  def scaling(self) -> optax.GradientTransformation:
    """See `Optimizer.scaling`."""
    if not self.momentum:
      return optax.identity()
    return optax.trace(self.momentum, self.nesterov)

  def check(self, key: str = "optimizer") -> None:
    """See `Optimizer.check`."""
    super().check(key)
    Fields(self, key).fraction("momentum")


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
  """Adam with second moments by row and column (arXiv:1804.04235).

  Shazeer & Stern 2018. The state of a matrix [m, n] is m + n numbers. The rate
  is relative to the root mean square of each parameter. Layers under a scan
  get the same updates as separate layers.

  Attributes:
    decay_rate: The second moment at update t decays by 1 - t^-decay_rate.
    momentum: Decay of an average of the steps, one number per parameter; 0 for
      none.
    update_clip: Root mean square that each step is scaled down to; None for
      none.
    min_factored: Matrices whose smaller axis is shorter keep all their second
      moments.
    epsilon: Added to the squares of the gradient.
  """

  learning_rate: float = 1e-2
  decay_rate: float = 0.8
  momentum: float = 0.0
  update_clip: float | None = 1.0
  min_factored: int = 128
  epsilon: float = 1e-30

  def scaling(self) -> optax.GradientTransformation:
    """See `Optimizer.scaling`."""
    parts = [
      optax.scale_by_factored_rms(
        decay_rate=self.decay_rate,
        min_dim_size_to_factor=self.min_factored,
        epsilon=self.epsilon,
      )
    ]
    if self.update_clip is not None:
      parts.append(optax.clip_by_block_rms(self.update_clip))
    parts.append(optax.scale_by_param_block_rms())
    if self.momentum:
      parts.append(optax.ema(self.momentum, debias=False))
    return layerwise(optax.chain(*parts))

  def check(self, key: str = "optimizer") -> None:
    """See `Optimizer.check`."""
    super().check(key)
    fields = Fields(self, key)
    fields.positive("epsilon")
    fields.fraction("decay_rate", "momentum")
    fields.optional(is_real, "update_clip", REAL)
    fields.count("min_factored", least=1)


@dataclasses.dataclass(frozen=True)
class Muon(AdamW):
  """Orthogonalized momentum for matrices, AdamW for all other parameters.

  Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. The momentum
  U S V^T of a matrix [m, n] becomes about U V^T, times rms sqrt(max(m, n)). The
  root mean square of this step is about that of a step of AdamW, so one rate
  and one decay serve both (Liu et al. 2025, arXiv:2502.16982). In a parameter
  with more than two axes, the last two are those of the matrix. Layers under a
  scan get the same updates as separate layers.

  Attributes:
    matrix_paths: Patterns of the paths of matrices; see `Group.paths`.
    other_paths: Patterns that AdamW trains although they match `matrix_paths`:
      the kernel of a depthwise convolution is one filter per channel.
    momentum: Decay of the momentum, which looks ahead as that of Nesterov.
    iterations: Newton-Schulz iterations that orthogonalize.
    rms: Root mean square of a step of the rate 1.
  """

  matrix_paths: tuple[str, ...] = ("*/kernel",)
  other_paths: tuple[str, ...] = ("*convolution/kernel",)
  momentum: float = 0.95
  iterations: int = 5
  rms: float = 0.2

  def is_matrix(self, path: str, shape: tuple[int, ...]) -> bool:
    """Says whether the momentum of a parameter is orthogonalized.

    Args:
      path: Its names, joined by slashes.
      shape: Its shape.
    """
    chosen = matches(path, self.matrix_paths)
    chosen &= not matches(path, self.other_paths)
    return chosen and rank(path, shape) >= 2

  def scaling(self) -> optax.GradientTransformation:
    """See `Optimizer.scaling`."""

    def axes(params: Any) -> Any:
      last_two = contrib.MuonDimensionNumbers(-2, -1)
      return jax.tree.map(lambda _: last_two, params)

    def scaled(x: jax.Array) -> jax.Array:
      return x * (self.rms * math.sqrt(max(x.shape[-2:])))

    matrices = optax.chain(
      contrib.scale_by_muon(
        beta=self.momentum,
        ns_steps=self.iterations,
        weight_dimension_numbers=axes,
      ),
      optax.stateless(lambda updates, _: jax.tree.map(scaled, updates)),
    )

    def label(path: str, shape: tuple[int, ...]) -> str:
      return "matrices" if self.is_matrix(path, shape) else "others"

    return optax.partition(
      {"matrices": matrices, "others": super().scaling()},
      lambda params: by_path(label, params),
    )

  def check(self, key: str = "optimizer") -> None:
    """See `Optimizer.check`."""
    super().check(key)
    fields = Fields(self, key)
    fields.fraction("momentum")
    fields.count("iterations", least=1)
    fields.positive("rms")


@dataclasses.dataclass(frozen=True)
class ScheduleFreeAdamW(AdamW):
  """AdamW on averaged iterates (Defazio et al. 2024, arXiv:2405.15682).

  The rate need not fall. Gradients are taken at a point between the newest
  iterate and the average of all iterates; validation and samples use the
  average. The state stores the newest iterate; the average follows from it and
  the parameters.

  Attributes:
    b1: Weight of the average, against that of the newest iterate, where the
      gradient is taken.
  """

  schedule: Schedule = dataclasses.field(default_factory=Constant)

  def scaling(self) -> optax.GradientTransformation:
    """See `Optimizer.scaling`."""
    return optax.scale_by_rms(
      self.b2, self.epsilon, eps_in_sqrt=False, bias_correction=True
    )

  def descent(self, steps: int) -> optax.GradientTransformation:
    """See `Optimizer.descent`."""
    inner, rate = super().descent(steps), self.rate(steps)
    # Here optax counts updates from one.
    return contrib.schedule_free(inner, lambda count: rate(count - 1), self.b1)

  def check(self, key: str = "optimizer") -> None:
    """See `Optimizer.check`."""
    super().check(key)
    fields = Fields(self, key)
    fields.require(self.b1 > 0, "b1", "more than 0")
    wanted = "None: this optimizer averages by itself"
    fields.require(self.ema is None, "ema", wanted)
