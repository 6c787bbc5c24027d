"""The depthwise convolution over images whose places are a sequence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import check_fields
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import run_by_letters

__all__ = ["DepthwiseConvolution"]


class DepthwiseConvolution(nn.Module):
  """y_ij = sum_ab kernel_ab * x_{i+a, j+b} + bias, channel by channel.

  a and b are from -(W - 1) / 2 to (W - 1) / 2, and places outside of the image
  are zeros. Initial parameters are uniform in +-1/W, the default of PyTorch,
  which the vision models use.

  Attributes:
    rows: The number of rows of an image.
    columns: The number of columns.
    kernel_width: W, odd.
    use_bias: Whether there is a bias.
    dtype: The dtype of the result.
    param_dtype: The dtype of the parameters.
  """

  rows: int
  columns: int
  kernel_width: int = 3
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, segments: jax.Array | None = None
  ) -> jax.Array:
    """Convolves images.

    Args:
      x: [B, L, D]: images one after the other, each row by row.
      segments: [B, L] or None. A place reads only places with its own number,
        so no number may come back after another one.

    Returns:
      [B, L, D].
    """
    check_fields(self, "columns", "kernel_width")
    checks.require(
      self.kernel_width % 2 == 1,
      f"DepthwiseConvolution: kernel_width must be odd, got "
      f"{self.kernel_width}",
    )

    def init(key, shape, dtype):
      bound = 1 / self.kernel_width
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    shape = (self.kernel_width, self.kernel_width, x.shape[-1])
    kernel = self.param("kernel", init, shape, self.param_dtype)
    y = run_by_letters(
      "depthwise",
      lambda arrays: self._convolved(**arrays),
      {"x": x.astype(self.dtype), "kernel": kernel, "segments": segments},
      {"x": "B L D", "kernel": "W W D", "segments": "B L"},
      "B L D",
    )
    if self.use_bias:
      bias = self.param("bias", init, shape[2:], self.param_dtype)
      y = y + bias.astype(self.dtype)[None, None]
    return y

  @nn.nowrap
  def _convolved(
    self, x: jax.Array, kernel: jax.Array, segments: jax.Array | None
  ) -> jax.Array:
    """The sum over the offsets; a shift along L for each."""
    kernel = kernel.astype(self.dtype)
    half, length = self.kernel_width // 2, x.shape[1]
    place = np.arange(length)
    row, column = place // self.columns % self.rows, place % self.columns
    y = jnp.zeros_like(x)
    for a in range(-half, half + 1):
      for b in range(-half, half + 1):
        shift = a * self.columns + b
        inside = (row + a >= 0) & (row + a < self.rows)
        inside &= (column + b >= 0) & (column + b < self.columns)
        if not inside.any():
          continue
        counts = jnp.asarray(inside)[None]
        if segments is not None:
          counts = counts & (_shifted(segments, shift) == segments)
        term = jnp.where(counts[..., None], _shifted(x, shift), 0)
        y = y + term * kernel[None, None, a + half, b + half]
    return y


def _shifted(x: jax.Array, shift: int) -> jax.Array:
  """x_{t + shift} at t, for x [B, L, ...]; zeros outside of the sequence."""
  length, size = x.shape[1], min(abs(shift), x.shape[1])
  before, after = (0, size) if shift >= 0 else (size, 0)
  widths = ((0, 0), (before, after), *((0, 0),) * (x.ndim - 2))
  return jnp.pad(x, widths)[:, after : after + length]
