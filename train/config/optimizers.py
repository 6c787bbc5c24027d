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

import dataclasses
import math
from typing import Any

import jax
import optax
from optax import contrib

from train.config.checks import (
  REAL,
  Fields,
  is_real,
)
from train.config.groups import matches
from train.config.optimizer_base import Optimizer
from train.config.schedules import Constant, Schedule
from train.optimizer import (
  by_path,
  layerwise,
)
from train.parameters import rank


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
