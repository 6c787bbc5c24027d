"""Parts that layers share: projections, their initialisation, and guards."""

import math
import numbers
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.one_bit import OneBitDense
from jaxmodels.layers.products import dense_product
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import run_by_letters

__all__ = [
  "check_fields",
  "check_input",
  "check_positive",
  "divide",
  "log_uniform",
  "merge_heads",
  "projection",
  "split_heads",
  "step_bias",
  "wide",
]


def projection(
  layer: nn.Module,
  features: int,
  name: str,
  *,
  scale: float = 1.0,
  use_bias: bool = False,
  dtype: jnp.dtype | None = None,
  kernel_init: nn.initializers.Initializer | None = None,
) -> nn.Dense:
  """A dense map in the compute dtype of `layer`, in the scope of its caller.

  Weights are normal with variance scale^2 / fan-in (LeCun), which keeps the
  size of activations at every width. The papers' own code uses a fixed
  deviation (0.02) or Xavier's initialisation, which keep it at one width only.

  Args:
    layer: A module with fields `dtype` and `param_dtype`. If it has the field
      `one_bit` and that is true, the map is a `OneBitDense`.
    features: The width of the result.
    name: The name of the submodule.
    scale: Factor on the initial weights.
    use_bias: Whether to add a bias, initially zero.
    dtype: The dtype of the computation, by default that of the layer. Decays
      and write strengths pass `wide(layer.dtype)`, because rounding them to
      bfloat16 changes how long a state remembers.
    kernel_init: Draws the weights in place of the above.
  """
  kind = OneBitDense if getattr(layer, "one_bit", False) else nn.Dense
  return kind(
    features,
    use_bias=use_bias,
    dtype=dtype or layer.dtype,
    param_dtype=layer.param_dtype,
    kernel_init=kernel_init
    or nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal"),
    dot_general=_product,
    name=name,
  )


def _product(
  x: jax.Array, kernel: jax.Array, axes: Any, **options: Any
) -> jax.Array:
  """`lax.dot_general` of x [..., D] and a kernel [D, F], over D."""
  del axes
  return run_by_letters(
    "projection",
    lambda arrays: dense_product(arrays["x"], arrays["kernel"], **options),
    {"x": x, "kernel": kernel},
    {"x": "... D", "kernel": "D F"},
    "... F",
  )


def wide(dtype: jnp.dtype) -> jnp.dtype:
  """The wider of float32 and `dtype`."""
  return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def split_heads(x: jax.Array, heads: int) -> jax.Array:
  """Reshapes [B, L, H * K] to [B, L, H, K]."""
  return x.reshape((*x.shape[:-1], heads, x.shape[-1] // heads))


def merge_heads(x: jax.Array) -> jax.Array:
  """Reshapes [B, L, H, K] to [B, L, H * K]."""
  return x.reshape((*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def check_input(
  layer: nn.Module, x: jax.Array, segment_ids: jax.Array | None
) -> None:
  """Checks x [B, L, width] and segment_ids [B, L] of a mixer."""
  name = type(layer).__name__
  checks.shape(name, "x", x, (None, None, layer.width), "[B, L, width]")
  checks.dtype(name, "x", x, jnp.floating, "real floating point")
  checks.segment_ids(name, segment_ids, x.shape[:2])


def check_fields(layer: nn.Module, *sizes: str) -> None:
  """Checks the fields that most modules share, and further sizes.

  Args:
    layer: Any module. The fields width, chunk_size, output_scale, dtype and
      param_dtype are checked if the module has them.
    *sizes: Names of further fields that must be integers of at least 1. None is
      allowed and stands for the default.

  Raises:
    ValueError: Names the module, the field, its value and the valid values.
  """
  name = type(layer).__name__
  for field in ("width", "chunk_size", *sizes):
    value = getattr(layer, field, None)
    if value is None:
      continue
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    checks.require(whole, f"{name}: {field} must be an integer, got {value!r}")
    checks.require(
      value >= 1, f"{name}: {field} must be at least 1, got {value}"
    )
  for field in ("dtype", "param_dtype"):
    if hasattr(layer, field):
      _check_dtype(name, field, getattr(layer, field))
  if hasattr(layer, "output_scale"):
    scale = layer.output_scale
    checks.require(
      _is_finite(scale) and scale >= 0,
      f"{name}: output_scale must be a number of at least 0, got {scale!r}",
    )


def check_positive(layer: nn.Module, *fields: str) -> None:
  """Checks that fields are finite numbers above 0."""
  for field in fields:
    value = getattr(layer, field)
    checks.require(
      _is_finite(value) and value > 0,
      f"{type(layer).__name__}: {field} must be a number above 0, "
      f"got {value!r}",
    )


def _is_finite(value: Any) -> bool:
  return isinstance(value, numbers.Real) and math.isfinite(value)


def _check_dtype(name: str, field: str, dtype: Any) -> None:
  """Checks that a dtype is real and floating, and that JAX computes in it."""
  try:
    kind = jnp.dtype(dtype)
  except TypeError:
    kind = None
  checks.require(
    kind is not None and jnp.issubdtype(kind, jnp.floating),
    f"{name}: {field} must be a real floating-point dtype, got {dtype!r}",
  )
  used = jax.typeof(np.zeros((), kind)).dtype
  checks.require(
    used == kind,
    f"{name}: {field} is {kind}, which JAX computes as {used}: switch "
    "jax_enable_x64 on, or choose float32",
  )


def divide(layer: nn.Module, field: str, total: int, whole: str) -> int:
  """The quotient total // field, or an error that names the field."""
  parts = getattr(layer, field)
  checks.require(
    parts > 0 and total % parts == 0,
    f"{type(layer).__name__}: {field} must divide {whole} = {total}, "
    f"got {parts}",
  )
  return total // parts


def log_uniform(low: float, high: float) -> nn.initializers.Initializer:
  """An initialiser whose logarithm is uniform over [log low, log high]."""

  def init(key, shape, dtype=jnp.float32):
    return jnp.exp(
      jax.random.uniform(key, shape, dtype, jnp.log(low), jnp.log(high))
    )

  return init


def step_bias(low: float, high: float) -> nn.initializers.Initializer:
  """An initialiser whose softplus is log-uniform over [low, high].

  With it a step softplus(W x + bias) is log-uniform where W x = 0: the
  initialisation of Mamba (Gu & Dao 2023, arXiv:2312.00752).
  """
  steps = log_uniform(low, high)

  def init(key, shape, dtype=jnp.float32):
    step = steps(key, shape, dtype)
    # The inverse of softplus, without exp(+large).
    return step + jnp.log(-jnp.expm1(-step))

  return init
