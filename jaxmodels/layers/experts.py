"""Several small MLPs, the experts, each of which maps its own rows."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.gradients import with_gradient_of
from jaxmodels.ops.engine.platform import platform

__all__ = ["map_by_experts"]

Activation = Callable[[jax.Array], jax.Array]
Kernels = Mapping[str, jax.Array]
_SMALLEST, _LARGEST = 8, 64


def map_by_experts(
  activation: Activation, rows: jax.Array, expert: jax.Array, kernels: Kernels
) -> jax.Array:
  """Maps each row by its expert.

  `jax.lax.ragged_dot` multiplies each expert's rows by its weights. On a CPU,
  XLA multiplies all rows by all weights instead. So there, without a gradient,
  a loop takes blocks of rows that share an expert, and reads the weights of
  chosen experts only. On two busy cores, with 64 experts of 512 x 256 and 4
  choices per token, 1, 8 and 64 tokens took 0.7, 8 and 11 ms in place of 78,
  184 and 541 in the same run.

  Args:
    activation: The activation of all experts.
    rows: [N, D].
    expert: [N] of int32, not decreasing.
    kernels: "gate", "value" and "output" of gated experts, or "input" and
      "output": [E, D, F], and [E, F, D] for "output".

  Returns:
    [N, D].
  """

  def sorted_rows(
    rows: jax.Array, expert: jax.Array, kernels: Kernels
  ) -> jax.Array:
    sizes = jnp.bincount(expert, length=kernels["output"].shape[0])
    sizes = sizes.astype(jnp.int32)
    return _expert(
      activation,
      rows,
      lambda x, name: jax.lax.ragged_dot(x, kernels[name], sizes),
      "gate" in kernels,
    )

  def blocks(rows: jax.Array, expert: jax.Array, kernels: Kernels) -> jax.Array:
    return _in_blocks(activation, rows, expert, kernels)

  if platform() != "cpu" or is_open(rows.shape[0]) or not rows.size:
    return sorted_rows(rows, expert, kernels)
  return with_gradient_of(blocks, sorted_rows)(rows, expert, kernels)


def _expert(
  activation: Activation,
  x: jax.Array,
  product: Callable[[jax.Array, str], jax.Array],
  gated: bool,
) -> jax.Array:
  """An MLP of rows x; `product` multiplies them by the kernel of a name."""
  hidden = activation(product(x, "gate" if gated else "input"))
  if gated:
    hidden = hidden * product(x, "value")
  return product(hidden, "output")


def _in_blocks(
  activation: Activation, rows: jax.Array, expert: jax.Array, kernels: Kernels
) -> jax.Array:
  """A loop over blocks of rows; the rows of each expert start a new block."""
  count, experts = rows.shape[0], kernels["output"].shape[0]
  size = _block_size(count, experts)
  sizes = jnp.bincount(expert, length=experts)
  blocks = -(-sizes // size)
  ends = jnp.cumsum(blocks)
  starts = (ends - blocks) * size - (jnp.cumsum(sizes) - sizes)
  place = starts[expert] + jnp.arange(count)
  most = count // size + min(experts, count)
  padded = jnp.zeros((most * size, rows.shape[1]), rows.dtype)
  padded = padded.at[place].set(rows).reshape(most, size, -1)
  owner = jnp.searchsorted(ends, jnp.arange(most), side="right")
  owner = jnp.minimum(owner, experts - 1)

  def body(i: jax.Array, out: jax.Array) -> jax.Array:
    y = _expert(
      activation,
      padded[i],
      lambda x, name: x @ kernels[name][owner[i]],
      "gate" in kernels,
    )
    return out.at[i].set(y)

  mapped = jax.lax.fori_loop(0, ends[-1], body, jnp.zeros_like(padded))
  return mapped.reshape(padded.shape[0] * size, -1)[place]


def _block_size(rows: int, experts: int) -> int:
  """A power of two near the mean number of rows per expert."""
  if rows <= _SMALLEST:
    return 1
  mean = -(-rows // experts)
  return min(max(1 << (mean - 1).bit_length(), _SMALLEST), _LARGEST)
