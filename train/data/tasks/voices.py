"""Mixtures of generated voices, to be separated."""

from __future__ import annotations

import dataclasses

import numpy as np

from train.data.dataset import Example, check_at_least
from train.data.tasks.drawn import DrawnTask

__all__ = ["VoiceMixtures", "voice"]

# Samples between two values of the spectral envelope.
_HOP = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class VoiceMixtures(DrawnTask):
  """Two generated voices at once: what did each of them say?

  A voice is a series of harmonics of a pitch that moves, shaped by the
  resonances (formants) of a vocal tract that change from syllable to syllable,
  with pauses between syllables and breath noise: see `voice`. The pitches of
  the two voices differ by a factor of 1.3 to 2 on average over time, and their
  levels by up to 5 dB.

  An example has "inputs" [samples], the mixture with a root mean square of 1,
  and "targets" [2, samples], the two voices in it, in random order.

  Attributes:
    samples: The number of samples.
    rate: Samples per second.
  """

  samples: int = 4096
  rate: int = 4000

  def check(self) -> None:
    """See `DrawnTask.check`."""
    check_at_least(1, samples=self.samples)
    # The second formant must be below half of the rate.
    check_at_least(4000, rate=self.rate)

  def row(self, rng: np.random.Generator) -> Example:
    """See `DrawnTask.row`."""
    low = rng.uniform(90, 140)
    pitches = rng.permutation([low, low * rng.uniform(1.3, 2)])
    both = np.stack([voice(rng, f, self.samples, self.rate) for f in pitches])
    both[1] *= 10 ** (rng.uniform(-5, 5) / 20)
    both /= np.sqrt(np.mean(both.sum(0) ** 2))
    targets = both.astype(np.float32)
    return {"inputs": targets.sum(0), "targets": targets}


def voice(
  rng: np.random.Generator, pitch: float, samples: int, rate: int
) -> np.ndarray:
  """A generated voice [samples] with a root mean square of 1.

    y(t) = e(t) (sum_h g(t, h f(t)) sin(h phi(t)) / h + 0.1 n(t))
    g(t, F) = sum_k w_k / sqrt(1 + ((F - F_k(t)) / 80 Hz)^2) + 0.02

  f is the pitch, phi its phase, e the envelope of the syllables, F_k the
  formants, all smooth in time, and n white noise. The harmonics end at half of
  the rate.

  Args:
    rng: The source of randomness.
    pitch: The average pitch in Hz.
    samples: The number of samples.
    rate: Samples per second.
  """
  # Two more values, so that the last sample lies between two of them.
  steps = samples // _HOP + 2
  envelope, formants = _syllables(rng, steps, rate / _HOP)
  time = np.arange(steps) * _HOP / rate
  bend = sum(
    0.06 * np.sin(2 * np.pi * (rng.uniform(0.5, 4) * time + rng.uniform()))
    for _ in range(3)
  )
  slow = pitch * np.exp(bend - 0.05 * time)
  place, known = np.arange(samples) / _HOP, np.arange(steps)
  phase = 2 * np.pi * np.cumsum(np.interp(place, known, slow)) / rate
  phase += rng.uniform(0, 2 * np.pi)
  y = np.zeros(samples)
  for h in range(1, int(rate / 2 / slow.min()) + 1):
    frequency = h * slow
    gain = 0.02 + sum(
      weight / np.sqrt(1 + ((frequency - formant) / 80) ** 2)
      for weight, formant in zip((1, 0.7), formants, strict=True)
    )
    gain = np.where(frequency < rate / 2, gain, 0) / h
    y += np.interp(place, known, gain) * np.sin(h * phase)
  y += 0.1 * rng.normal(size=samples)
  y *= np.interp(place, known, envelope)
  return y / np.sqrt(np.mean(y**2))


def _syllables(
  rng: np.random.Generator, steps: int, rate: float
) -> tuple[np.ndarray, np.ndarray]:
  """The envelope [steps] and two formants [2, steps] of random syllables."""
  envelope, formants = np.full(steps, 0.01), np.empty((2, steps))
  # The first syllable may have begun before.
  start = -rng.uniform(0, 0.2) * rate
  tract = rng.uniform(0.85, 1.15)
  centers, values = [], []
  while start < steps:
    length = rng.uniform(0.12, 0.3) * rate
    inside = (np.arange(steps) - start) / length
    bump = np.sin(np.pi * np.clip(inside, 0, 1)) ** 0.7
    envelope = np.maximum(envelope, rng.uniform(0.5, 1) * bump)
    centers.append(start + length / 2)
    values.append(tract * rng.uniform((250, 900), (800, 1700)))
    start += length + rng.uniform(-0.02, 0.12) * rate
  for k, own in enumerate(np.transpose(values)):
    formants[k] = np.interp(np.arange(steps), centers, own)
  return envelope, formants
