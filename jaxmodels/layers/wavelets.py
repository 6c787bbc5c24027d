"""The continuous wavelet transform."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import wide
from jaxmodels.ops.engine import checks

__all__ = ["geometric_scales", "wavelet_transform"]

FREQUENCY = 6.0


def geometric_scales(count: int, shortest: float, longest: float) -> np.ndarray:
  """Scales of wavelets whose periods are a geometric series.

  The Morlet wavelet with the frequency w has the period 2 pi a / w at the scale
  a (Torrence & Compo 1998, without their correction of 3%).

  Args:
    count: S, the number of scales, at least 1.
    shortest: The shortest period, in steps, above 0; 2 is the Nyquist limit.
    longest: The longest period, at least `shortest`.

  Returns:
    [S] in float64, for `wavelet_transform` with its default frequency.
  """
  checks.require(
    count >= 1 and 0 < shortest <= longest,
    f"geometric_scales: count must be at least 1 and 0 < shortest <= longest, "
    f"got {count}, {shortest} and {longest}",
  )
  return np.geomspace(shortest, longest, count) * FREQUENCY / (2 * math.pi)


def wavelet_transform(
  x: jax.Array, scales: np.ndarray, frequency: float = FREQUENCY
) -> jax.Array:
  """The continuous wavelet transform by the Morlet wavelet.

    W_at = 1 / sqrt(a) sum_s x_s conj(psi((s - t) / a))
    psi(u) = pi^(-1/4) exp(i w u) exp(-u^2 / 2)

  for every scale a and step t; x is zero outside of its L steps. If x moves by
  some steps and has zeros at its ends, W moves with it. The sum runs over all
  of x, without truncation of the wavelet. It is computed by FFT, in a time of
  S L log L per series. Morlet's wavelet is that of Grossmann & Morlet 1984
  without the small term that makes its mean exactly 0; with w = 6 its mean is
  below 1e-7 (Farge 1992).

  Args:
    x: [..., L], real floating point.
    scales: S scales in steps, above 0; NumPy, so that the wavelets are
      constants of the program.
    frequency: w.

  Returns:
    W [..., S, L], complex: complex64 for inputs of 32 bits or fewer, or
    complex128.

  Raises:
    ValueError: x has no length, or a scale is not above 0.
  """
  scales = np.asarray(scales, np.float64)
  checks.dtype("wavelet_transform", "x", x, jnp.floating, "real floating point")
  checks.require(
    x.ndim >= 1 and x.shape[-1] >= 1,
    f"wavelet_transform: x must be [..., L] with L at least 1, got {x.shape}",
  )
  checks.require(
    scales.ndim == 1 and bool(np.all(scales > 0)),
    f"wavelet_transform: scales must be numbers above 0 [S], got {scales}",
  )
  length = x.shape[-1]
  # Lag r = s - t, from -(L - 1) to L - 1, at index -r of the circle: the
  # convolution of x and psi(-r). A circle of 2 L - 1 steps holds all lags.
  lags = -np.fft.fftfreq(2 * length - 1, 1 / (2 * length - 1))
  u = lags[None] / scales[:, None]
  waves = np.exp(-1j * frequency * u - u**2 / 2) * math.pi**-0.25
  spectrum = np.fft.fft(waves / np.sqrt(scales)[:, None])
  found = jnp.fft.fft(x.astype(wide(x.dtype)), 2 * length - 1)
  spectrum = spectrum.reshape((1,) * (x.ndim - 1) + spectrum.shape)
  product = found[..., None, :] * jnp.asarray(spectrum, found.dtype)
  return jnp.fft.ifft(product)[..., :length]
