"""Bounds and baselines of `configs/speech/separation.py`, in dB.

python -m benchmarks.voices

Each method makes two estimates of a mixture by masks on its short-time Fourier
transform (64 ms windows):

- "comb": the harmonics of the pitch that has the most power in each window are
  one voice, and the rest is the other. It knows that voices are harmonic, but
  does not follow a voice from window to window;
- "ideal": each bin in proportion to the voices' true magnitudes, the ideal
  ratio mask. It needs the voices themselves, and is the usual reference for
  what masks of magnitudes can reach.

The measure is the improvement of SI-SDR over the mixture, whose own is 0. The
docstring of the config has the figures. It takes about half a minute of one
core.
"""

import jax
import numpy as np

from train.data.tasks import VoiceMixtures
from train.losses import Separation

_WINDOW, _HOP, _BATCH = 256, 64, 20


def _transform(x: np.ndarray) -> np.ndarray:
  """The spectra [n, F] of the windows of x [T]."""
  padded = np.pad(x, (_WINDOW, _WINDOW + -len(x) % _HOP))
  frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
  return np.fft.rfft(frames * np.sqrt(np.hanning(_WINDOW + 1)[:-1]))


def _inverse(spectra: np.ndarray, length: int) -> np.ndarray:
  """The signal [length] of spectra, by overlap-add."""
  frames = np.fft.irfft(spectra) * np.sqrt(np.hanning(_WINDOW + 1)[:-1])
  total = np.zeros(_HOP * (len(frames) - 1) + _WINDOW)
  for i, frame in enumerate(frames):
    total[i * _HOP : i * _HOP + _WINDOW] += frame
  # Four windows overlap, and their squares add up to 2.
  return total[_WINDOW : _WINDOW + length] / 2


def _separated(mixture: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Two estimates [2, T] by a mask [n, F] and its complement."""
  spectra = _transform(mixture)
  return np.stack(
    [_inverse(m * spectra, len(mixture)) for m in (mask, 1 - mask)]
  )


def comb(mixture: np.ndarray, rate: int) -> np.ndarray:
  """The mask [n, F] of the harmonics of the strongest pitch per window."""
  power = np.abs(_transform(mixture)) ** 2
  frequency = np.fft.rfftfreq(_WINDOW, 1 / rate)
  pitches = np.arange(80, 300, 2.0)
  harmonic = np.round(frequency / pitches[:, None])
  distance = np.abs(frequency - harmonic * pitches[:, None])
  # A window has a main lobe of two bins on each side.
  near = (distance < 1.5 * rate / _WINDOW) & (harmonic > 0)
  # Low pitches have more harmonics: compare with the mean over all bins.
  above = near - near.mean(1, keepdims=True)
  return near[np.argmax(power @ above.T, 1)]


def ideal(targets: np.ndarray) -> np.ndarray:
  """The ideal ratio mask [n, F] of the first of two voices [2, T]."""
  first, second = (np.abs(_transform(voice)) for voice in targets)
  return first / (first + second + 1e-12)


def main() -> None:
  """Prints the mean improvement of each method."""
  task = VoiceMixtures(validation_examples=200)
  rows = task.open("validation")
  loss = Separation()
  sums = jax.jit(loss.sums)
  for name in ("comb", "ideal"):
    gains = []
    for start in range(0, len(rows), _BATCH):
      drawn = [rows[i] for i in range(start, start + _BATCH)]
      masks = [
        comb(row["inputs"], task.rate)
        if name == "comb"
        else ideal(row["targets"])
        for row in drawn
      ]
      estimates = [
        _separated(row["inputs"], mask)
        for row, mask in zip(drawn, masks, strict=True)
      ]
      batch = {key: np.stack([r[key] for r in drawn]) for key in drawn[0]}
      batch["weights"] = np.ones(_BATCH, np.float32)
      found = sums(np.stack(estimates).astype(np.float32), batch)
      gains.append(float(loss.means(found)["si_sdr_improvement"]))
    print(f"{name:6} SI-SDR improvement {np.mean(gains):.2f} dB")


if __name__ == "__main__":
  main()
