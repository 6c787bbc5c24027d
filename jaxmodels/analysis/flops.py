"""Counts the floating-point operations of a program, loops included.

The compiler's own `cost_analysis()` counts the body of a loop once, however
often it runs, and the body is the whole work of a recurrence. This module walks
the traced program, and counts the body of a `scan` once per iteration.

A multiplication, an addition, an exponential and a square root count one each
(`transcendental` counts the last two kinds separately). A complex operation
counts as the real operations in it. Moving, selecting, comparing and converting
are free, and so is arithmetic on integers. Unused results are dropped first.
Duplicate operations that the compiler would merge are counted twice.

Every program has a count. A primitive that this module does not know counts one
flop per element of its output. A loop whose number of rounds depends on the
data counts one round. The result names both, so that no work goes unmentioned.
"""

import math
from collections.abc import Callable, Iterable, Iterator
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
    unknown: names of the primitives that this module does not know, whose
      output elements are in `elementwise`; "while" for a loop that counts one
      round because its number of rounds depends on the data.
  """

  products: float = 0.0
  elementwise: float = 0.0
  transcendental: float = 0.0
  unknown: frozenset[str] = frozenset()

  @property
  def total(self) -> float:
    """The sum of all flops."""
    return self.products + self.elementwise + self.transcendental

  def plus(self, other: "Flops", times: float = 1) -> "Flops":
    """The sum of this and `times` times the other."""
    return Flops(
      self.products + times * other.products,
      self.elementwise + times * other.elementwise,
      self.transcendental + times * other.transcendental,
      self.unknown | other.unknown,
    )


def count(function: Callable[..., Any], *arguments: Any) -> Flops:
  """Counts the flops of a call.

  Args:
    function: a function of pytrees of arrays.
    *arguments: arrays or their shapes; no values are needed.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def of_jaxpr(traced: Any) -> Flops:
  """Counts the flops of a traced program, like `count`."""
  used = [True] * len(traced.outvars)
  return _count(partial_eval.dce_jaxpr(traced, used)[0])


def unknown_line(unknown: Iterable[str]) -> str:
  """Returns the sentence about the primitives in `Flops.unknown`.

  Args:
    unknown: their names; at least one.
  """
  names = sorted(unknown)
  parts = []
  if others := [name for name in names if name != "while"]:
    parts.append(
      f"{', '.join(others)} counted as elementwise, since their flops are"
      " unknown"
    )
  if "while" in names:
    parts.append(
      "while loops counted as one round, since their number of rounds depends"
      " on the data"
    )
  return f"flops: {'; '.join(parts)}"


def _count(jaxpr: Any) -> Flops:
  return _sum(map(_equation, jaxpr.eqns))


def _sum(parts: Iterable[Flops]) -> Flops:
  total = Flops()
  for part in parts:
    total = total.plus(part)
  return total


def _equation(equation: Any) -> Flops:
  """The flops of one equation and of the programs that it calls."""
  name, params = equation.primitive.name, equation.params
  if name == "scan":
    return Flops().plus(_count(params["jaxpr"].jaxpr), params["length"])
  if name == "shard_map":  # Every device runs the program on its shard.
    return Flops().plus(_count(params["jaxpr"]), params["mesh"].size)
  if name == "while":
    parts = [params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr]
    return _sum([Flops(unknown=frozenset({name})), *map(_count, parts)])
  if name == "cond":
    branches = [_count(branch.jaxpr) for branch in params["branches"]]
    longest = max(branches, key=lambda flops: flops.total)
    if params.get("branches_platforms"):  # All compute the same.
      return longest
    return longest._replace(unknown=_sum(branches).unknown)
  if name == "custom_linear_solve":  # The others are for its derivatives.
    return _count(params["jaxprs"].solve.jaxpr)
  if name == "pallas_call":
    rounds = math.prod(params["grid_mapping"].grid)
    return Flops().plus(_count(params["jaxpr"]), rounds)
  if name in _PRODUCTS:
    return Flops(products=_PRODUCTS[name](equation))
  inner = list(_jaxprs(params)) if name not in _REDUCE_BY else []
  if inner:
    return _sum(map(_count, inner))
  return _arithmetic(name, equation)


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
  """The programs that an equation calls: of jit, remat, custom derivatives."""
  for value in params.values():
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value


def _arithmetic(name: str, equation: Any) -> Flops:
  outputs = [x.aval for x in equation.outvars if _is_float(x.aval)]
  if not outputs or name in _FREE:
    return Flops()
  out = outputs[0]
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
  elements = float(sum(x.size for x in outputs))
  return Flops(elementwise=elements, unknown=frozenset({name}))


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


def _ragged(equation: Any) -> float:
  """2 flops per product of a row with the weights of its own group."""
  left, right = (x.aval for x in equation.invars[:2])
  numbers = equation.params["ragged_dot_dimension_numbers"]
  (_, summed), _ = numbers.dot_dimension_numbers
  # Groups and summed axes of the second factor are no columns of the result.
  away = {*summed, *numbers.rhs_group_dimensions}
  columns = (n for i, n in enumerate(right.shape) if i not in away)
  return 2 * left.size * math.prod(columns)


_PRODUCTS = {
  "dot_general": _dot,
  "conv_general_dilated": _convolution,
  "ragged_dot_general": _ragged,
}
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
  "ceil": (1, 1),
  "floor": (1, 1),
  "rem": (1, 1),
  "round": (1, 1),
  "square": (1, 6),
  "conj": (0, 1),
  "one_minus_square": (3, 10),  # (1 - x) (1 + x)
}
_TRANSCENDENTAL = {
  "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos",
  "cosh", "digamma", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "lgamma",
  "log", "log1p", "log2", "logistic", "pow", "rsqrt", "sin", "sinh", "sqrt",
  "tan", "tanh",
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
