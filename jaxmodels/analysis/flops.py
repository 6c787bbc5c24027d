"""Counts the floating-point operations of a program, loops included.

The compiler's own `cost_analysis()` counts the body of a loop once, however
often it runs, and the body is the whole work of a recurrence. This module walks
the traced program, and counts the body of a `scan` once per iteration.

A multiplication, an addition, an exponential and a square root count one each
(`transcendental` counts the last two kinds separately). A complex operation
counts as the real operations in it. Moving, selecting, comparing and converting
are free. Unused results are dropped first. Duplicate operations that the
compiler would merge are counted twice.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval


class Flops(NamedTuple):
  """Floating-point operations.

  Attributes:
    products: flops of matrix products and convolutions.
    elementwise: flops of all other arithmetic.
    transcendental: exponentials, roots and the like.
  """

  products: float = 0.0
  elementwise: float = 0.0
  transcendental: float = 0.0

  @property
  def total(self) -> float:
    """The sum of all flops."""
    return sum(self)

  def plus(self, other: "Flops", times: float = 1) -> "Flops":
    """The sum of this and `times` times the other."""
    return Flops(*(a + times * b for a, b in zip(self, other, strict=True)))


def count(function: Callable[..., Any], *arguments: Any) -> Flops:
  """Counts the flops of a call.

  Args:
    function: a function of pytrees of arrays.
    *arguments: arrays or their shapes; no values are needed.

  Raises:
    ValueError: the number of rounds of a loop depends on the data, or this
      module does not know a primitive.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def of_jaxpr(traced: Any) -> Flops:
  """Counts the flops of a traced program, like `count`."""
  used = [True] * len(traced.outvars)
  return _count(partial_eval.dce_jaxpr(traced, used)[0])


def _count(jaxpr: Any) -> Flops:
  total = Flops()
  for equation in jaxpr.eqns:
    total = total.plus(_equation(equation))
  return total


def _equation(equation: Any) -> Flops:
  """The flops of one equation and of the programs that it calls."""
  name, params = equation.primitive.name, equation.params
  if name == "scan":
    return Flops().plus(_count(params["jaxpr"].jaxpr), params["length"])
  if name == "shard_map":  # Every device runs the program on its shard.
    return Flops().plus(_count(params["jaxpr"]), params["mesh"].size)
  if name == "while":
    raise ValueError(
      "the rounds of a while loop are not known before it runs; use a loop "
      "with a fixed number of rounds"
    )
  if name == "cond":
    branches = [_count(branch.jaxpr) for branch in params["branches"]]
    return max(branches, key=lambda flops: flops.total)
  if name == "custom_linear_solve":  # The others are for its derivatives.
    return _count(params["jaxprs"].solve.jaxpr)
  if name == "pallas_call":
    rounds = math.prod(params["grid_mapping"].grid)
    return Flops().plus(_count(params["jaxpr"]), rounds)
  if name in _PRODUCTS:
    return Flops(products=_PRODUCTS[name](equation))
  inner = list(_jaxprs(params)) if name not in _REDUCE_BY else []
  if inner:
    return functools.reduce(Flops.plus, map(_count, inner))
  return _arithmetic(name, equation)


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
  """The programs that an equation calls: of jit, remat, custom derivatives."""
  for value in params.values():
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value


def _arithmetic(name: str, equation: Any) -> Flops:
  out = equation.outvars[0].aval
  if not _is_float(out):
    return Flops()
  if name in _TRANSCENDENTAL:
    return Flops(transcendental=out.size)
  if name in _ELEMENTWISE:
    both = _is_complex(out)
    return Flops(elementwise=_ELEMENTWISE[name][1 if both else 0] * out.size)
  if name in _REDUCE:
    source = equation.invars[0].aval
    per_element = 2 if _is_complex(out) else 1
    return Flops(elementwise=per_element * max(source.size - out.size, 0))
  if name in _OTHER:
    return Flops(elementwise=_OTHER[name](equation))
  if name not in _FREE:
    raise ValueError(f"the flops of the primitive {name!r} are not known")
  return Flops()


def _is_float(aval: Any) -> bool:
  return hasattr(aval, "dtype") and jax.numpy.issubdtype(aval.dtype, np.inexact)


def _is_complex(aval: Any) -> bool:
  return jax.numpy.issubdtype(aval.dtype, np.complexfloating)


def _dot(equation: Any) -> float:
  """2 flops per product of two elements, or 8 for complex numbers."""
  (contracted, _), _ = equation.params["dimension_numbers"]
  left, out = equation.invars[0].aval, equation.outvars[0].aval
  terms = math.prod(left.shape[axis] for axis in contracted)
  return (8 if _is_complex(out) else 2) * out.size * terms


def _convolution(equation: Any) -> float:
  """2 flops per tap and output."""
  numbers = equation.params["dimension_numbers"]
  kernel, out = equation.invars[1].aval, equation.outvars[0].aval
  taps = kernel.size // kernel.shape[numbers.rhs_spec[0]]
  return (8 if _is_complex(out) else 2) * out.size * taps


def _matrices(cube: float) -> Callable[[Any], float]:
  """A factorisation of [..., N, N] in `cube * N^3`."""

  def flops(equation: Any) -> float:
    *batch, rows, _ = equation.invars[0].aval.shape
    return math.prod(batch) * cube * rows**3

  return flops


def _triangular_solve(equation: Any) -> float:
  """N^2 flops per column."""
  right = equation.invars[1].aval
  rows = equation.invars[0].aval.shape[-1]
  return right.size * rows


def _cumulative(equation: Any) -> float:
  return equation.invars[0].aval.size


def _power(equation: Any) -> float:
  """Squarings and multiplications."""
  power = abs(equation.params["y"])
  steps = power.bit_length() - 1 + power.bit_count() - 1
  return max(steps, 1) * equation.outvars[0].aval.size


def _scatter(equation: Any) -> float:
  return equation.invars[2].aval.size


def _added(equation: Any) -> float:
  return equation.outvars[0].aval.size


def _fft(equation: Any) -> float:
  """The usual `5 N log2 N`, or half of it if one side is real."""
  lengths = equation.params["fft_lengths"]
  size = math.prod(lengths)
  real = "RFFT" in str(equation.params["fft_type"])
  axes = len(lengths)
  one = equation.invars[0].aval
  batch = math.prod(one.shape[: one.ndim - axes])
  return (2.5 if real else 5) * batch * size * math.log2(max(size, 2))


_PRODUCTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
# Flops per element, real and complex.
_ELEMENTWISE = {
  "add": (1, 2),
  "sub": (1, 2),
  "mul": (1, 6),
  "div": (1, 11),
  "neg": (1, 2),
  "abs": (1, 4),
  "max": (1, 1),
  "min": (1, 1),
  "sign": (1, 1),
  "clamp": (2, 2),
  "floor": (1, 1),
  "round": (1, 1),
  "square": (1, 6),
  "conj": (0, 1),
  "one_minus_square": (3, 10),  # (1 - x) (1 + x)
}
_TRANSCENDENTAL = {
  "atan2", "cbrt", "cos", "erf", "erf_inv", "exp", "exp2", "expm1", "log",
  "log1p", "log2", "logistic", "pow", "rsqrt", "sin", "sqrt", "tan", "tanh",
}  # fmt: skip
_REDUCE = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"}
# Primitives with a program in their parameters that they do not call.
_REDUCE_BY = {"scatter-add", "scatter_add", "scatter", "scatter-mul"}
_OTHER = {
  "add_any": _added,
  "cholesky": _matrices(1 / 3),
  "cumlogsumexp": _cumulative,
  "cummax": _cumulative,
  "cumprod": _cumulative,
  "cumsum": _cumulative,
  "fft": _fft,
  "integer_pow": _power,
  "lu": _matrices(2 / 3),
  "scatter-add": _scatter,
  "scatter_add": _scatter,
  "triangular_solve": _triangular_solve,
}
_FREE = {
  "all_gather", "all_gather_invariant", "all_to_all", "bitcast_convert_type",
  "broadcast_in_dim", "complex", "concatenate", "convert_element_type",
  "copy", "copy_p", "device_put", "dynamic_slice", "dynamic_update_slice",
  "empty", "empty2", "expand_dims", "full", "gather", "get", "imag", "iota",
  "masked_load", "name", "nextafter", "optimization_barrier", "pad",
  "ppermute", "psum", "psum_invariant", "pvary", "real", "reduce_precision",
  "reshape", "reshard", "rev", "scatter", "select_and_gather_add", "select_n",
  "sharding_constraint", "slice", "sort", "split", "squeeze", "stack",
  "stop_gradient", "swap", "tile", "top_k", "transpose", "unstack",
  "zeros_like",
}  # fmt: skip
