"""Schedules of the learning rate: its share of the peak by update.

An optimizer has the peak and the length of the warm-up; a schedule says what
follows the warm-up. Updates are counted from one, so the last update of the
warm-up has the peak rate, and the first one does not have a rate of 0.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.config.checks import MOST, Fields, is_count


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
  """A linear warm-up to the peak, and what follows it.

  A subclass gives `after_warmup`. One of your own is a frozen dataclass.
  """

  def rate(self, steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Returns the share of the peak rate by the number of updates so far.

    Args:
      steps: Updates in the run.
      warmup_steps: Updates of the linear rise. The rise is cut where it would
        outlast the fall that follows it.
    """
    end = self.end(steps)
    warmup = warmup_steps if end is None else min(warmup_steps, end - 1)
    span = None if end is None else end - warmup
    after = self.after_warmup(span, warmup)

    def share(count: Any) -> jax.Array:
      step = jnp.asarray(count).astype(jnp.float32) + 1.0
      rise = step / max(warmup, 1)
      return jnp.where(step < warmup, rise, after(step - warmup))

    return share

  @abc.abstractmethod
  def after_warmup(self, span: int | None, warmup: int) -> optax.Schedule:
    """Returns the share of the peak by the updates since the warm-up.

    Args:
      span: Updates from the end of the warm-up to `end`; None if that is None.
      warmup: Updates of the warm-up.
    """

  def end(self, steps: int) -> int | None:
    """Returns the update at which the fall ends; None if it never ends.

    Args:
      steps: Updates in the run.
    """
    del steps
    return None

  def depends_on_steps(self) -> bool:
    """Says whether another number of steps in the run changes the schedule."""
    return self.end(1) != self.end(2)

  def check(self, key: str, warmup_steps: int) -> None:
    """Raises a UserError that names the first field with a wrong value.

    Args:
      key: The dotted path of the schedule, without "config.".
      warmup_steps: Updates of the warm-up.
    """
    del key, warmup_steps


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
  """The peak rate, to the end."""

  def after_warmup(self, span: int | None, warmup: int) -> optax.Schedule:
    """See `Schedule.after_warmup`."""
    del span, warmup
    return optax.constant_schedule(1.0)


@dataclasses.dataclass(frozen=True)
class InverseSquareRoot(Schedule):
  """sqrt(T / (T + t)) at t updates after the warm-up (Vaswani et al. 2017).

  With T equal to the warm-up this is sqrt(warmup / step), arXiv:1706.03762.

  Attributes:
    timescale: T, in updates; None for the length of the warm-up.
  """

  timescale: int | None = None

  def after_warmup(self, span: int | None, warmup: int) -> optax.Schedule:
    """See `Schedule.after_warmup`."""
    del span
    scale = float(self.timescale or max(warmup, 1))
    return lambda step: jnp.sqrt(scale / (scale + step))

  def check(self, key: str, warmup_steps: int) -> None:
    """See `Schedule.check`."""
    scale = self.timescale
    Fields(self, key).require(
      scale is None or is_count(scale), "timescale", f"1 to {MOST}, or None"
    )


@dataclasses.dataclass(frozen=True)
class _Falling(Schedule):
  """A schedule that ends at a floor.

  Attributes:
    floor: The last rate as a share of the peak.
    end_step: The step at which the rate reaches its floor; None for the last
      step of the run. With a number, a run can be extended.
  """

  floor: float = 0.1
  end_step: int | None = None

  def end(self, steps: int) -> int | None:
    """See `Schedule.end`."""
    return steps if self.end_step is None else self.end_step

  def check(self, key: str, warmup_steps: int) -> None:
    """See `Schedule.check`."""
    fields, end = Fields(self, key), self.end_step
    fields.between("floor")
    fields.require(
      end is None or (end > warmup_steps and is_count(end)),
      "end_step",
      f"more than warmup_steps and at most {MOST}, or None",
    )


@dataclasses.dataclass(frozen=True)
class Cosine(_Falling):
  """Half a cosine from the peak to the floor."""

  def after_warmup(self, span: int | None, warmup: int) -> optax.Schedule:
    """See `Schedule.after_warmup`."""
    del warmup
    length = _known(span)

    # `optax.cosine_decay_schedule` rounds differently: it multiplies the step
    # by pi before it divides by the length.
    def share(step: Any) -> jax.Array:
      done = jnp.clip(step / length, 0.0, 1.0)
      cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
      return self.floor + (1.0 - self.floor) * cosine

    return share


@dataclasses.dataclass(frozen=True)
class Linear(_Falling):
  """A straight line from the peak to the floor."""

  def after_warmup(self, span: int | None, warmup: int) -> optax.Schedule:
    """See `Schedule.after_warmup`."""
    del warmup
    return optax.linear_schedule(1.0, self.floor, _known(span))


SHAPES = ("linear", "square_root")


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(_Falling):
  """The peak rate, and a fall to the floor at the end.

  Hu et al. 2024, arXiv:2404.06395. A run can branch off before the fall.

  Attributes:
    decay_share: The fall as a share of `end_step`; the rest of the updates
      after the warm-up if that is less.
    shape: "linear", or "square_root" for a fall by the square root of the
      share of it that is done (Haegele et al. 2024, arXiv:2405.18392).
  """

  decay_share: float = 0.2
  shape: str = "linear"

  def after_warmup(self, span: int | None, warmup: int) -> optax.Schedule:
    """See `Schedule.after_warmup`."""
    length = _known(span)
    wanted = round(self.decay_share * (length + warmup))
    fall = min(max(wanted, 1), length)
    done = optax.linear_schedule(0.0, 1.0, fall, length - fall)

    def share(step: Any) -> jax.Array:
      part = done(step)
      part = jnp.sqrt(part) if self.shape == "square_root" else part
      return 1.0 - (1.0 - self.floor) * part

    return share

  def check(self, key: str, warmup_steps: int) -> None:
    """See `Schedule.check`."""
    super().check(key, warmup_steps)
    fields = Fields(self, key)
    fields.between("decay_share")
    wanted = "one of " + ", ".join(SHAPES)
    fields.require(self.shape in SHAPES, "shape", wanted)


def _known(span: int | None) -> int:
  """The span of a schedule whose `end` is never None."""
  assert span is not None
  return span
