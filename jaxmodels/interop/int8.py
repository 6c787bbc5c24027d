"""Kernels in int8: a quarter of the memory of float32.

A weight w of input channel i and output channel j is q_ij s_j with q in int8.
The scale s_j of each output channel is its largest weight / 127. A few input
channels with the largest weights relative to s_j would spoil the scales of all
others, so they keep their dtype, as in LLM.int8 (Dettmers et al. 2022,
arXiv:2208.07339). Here activations are never quantised: products are in the
dtype of the model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["OUTLIERS", "Int8Kernel", "is_kernel", "quantize"]

# The fraction of input channels that keep their dtype.
OUTLIERS = 0.01
_LARGEST = 127
Array = jax.Array | np.ndarray
# Kernels with fewer channels, such as those of short convolutions, stay.
_SMALLEST = 16
# Names of the kernels of `SparseMoE`.
_EXPERTS = ("gate", "value", "output")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Kernel:
  """A kernel [..., in, out] in int8, which Flax takes in place of an array.

  Attributes:
    codes: int8 [..., in, out], 0 in the rows that are kept.
    scales: [..., 1, out].
    kept: The rows that keep their dtype, [..., rows, out].
    rows: Their indices, int32 [..., rows].
  """

  # Flax compares the shape of the first leaf with that of the parameter.
  codes: Array
  scales: Array
  kept: Array
  rows: Array

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the kernel."""
    return self.codes.shape

  @property
  def ndim(self) -> int:
    """The number of axes of the kernel."""
    return self.codes.ndim

  @property
  def dtype(self) -> jnp.dtype:
    """The dtype of the kernel that was quantised."""
    return self.kept.dtype

  def astype(self, dtype: Any) -> jax.Array:
    """The kernel in another dtype."""
    return self.__jax_array__().astype(dtype)

  def __jax_array__(self) -> jax.Array:
    place = _with_rows
    for _ in range(self.ndim - 2):
      place = jax.vmap(place)
    return place(
      jnp.asarray(self.codes, self.dtype) * self.scales, self.rows, self.kept
    )


def is_kernel(path: str, value: np.ndarray) -> bool:
  """Whether a parameter is a kernel that is worth quantising.

  Args:
    path: Its path; kernels of experts are named after their role.
    value: Its value.
  """
  named = path.endswith(("/kernel", *(f"/mlp/{name}" for name in _EXPERTS)))
  return named and value.ndim > 1 and min(value.shape[-2:]) >= _SMALLEST


def _with_rows(kernel: jax.Array, rows: Array, kept: Array) -> jax.Array:
  return kernel.at[rows].set(kept)


def quantize(kernel: np.ndarray, outliers: float = OUTLIERS) -> Int8Kernel:
  """Quantises a kernel [..., in, out], in the memory of the host.

  Args:
    kernel: The weights.
    outliers: The fraction of input channels that keep their dtype.
  """
  wide = np.asarray(kernel, np.float32)
  size = np.abs(wide)
  # How far the largest weight of an input channel is above the usual ones.
  usual = np.sqrt(np.mean(wide**2, -2, keepdims=True)) + 1e-30
  count = int(np.ceil(outliers * kernel.shape[-2]))
  order = np.argsort(np.max(size / usual, -1), -1)
  rows = np.sort(order[..., kernel.shape[-2] - count :], -1)
  index = rows[..., None]
  kept = np.take_along_axis(kernel, index, -2)
  rest = wide.copy()
  np.put_along_axis(rest, index, 0, -2)
  scales = np.max(np.abs(rest), -2, keepdims=True) / _LARGEST
  codes = np.rint(rest / np.where(scales == 0, 1, scales)).astype(np.int8)
  scales = scales.astype(kernel.dtype)
  return Int8Kernel(codes, scales, kept, rows.astype(np.int32))
