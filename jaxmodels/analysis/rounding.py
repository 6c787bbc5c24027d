"""Programs with the rounded products of an NVIDIA GPU, on any machine.

A GPU's tensor cores multiply float32 numbers as TF32: the factors lose 13 of
their 23 bits, and the sums are float32. JAX asks for this wherever a product
has no precision of its own, or one below the highest.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

__all__ = ["with_tf32"]

_MANTISSA_BITS = 10
_HIGHEST = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


def with_tf32(function: Callable[..., Any]) -> Callable[..., Any]:
  """Rounds the factors of a function's float32 products to TF32.

  Products with `Precision.HIGHEST` keep theirs. Differentiate before, not
  after: the products of a gradient are then rounded too.

  Args:
    function: Takes and returns pytrees of arrays.
  """

  def rounded(*arguments: Any) -> Any:
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    results = _run(traced, *jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)

  return rounded


def _run(traced: core.ClosedJaxpr, *arguments: Any) -> list[Any]:
  """Evaluates a program with rounded products."""
  values = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
  values |= zip(traced.jaxpr.invars, arguments, strict=True)

  def read(variable):
    literal = isinstance(variable, core.Literal)
    return variable.val if literal else values[variable]

  for equation in traced.jaxpr.eqns:
    found = _equation(equation, *map(read, equation.invars))
    values |= zip(equation.outvars, found, strict=True)
  return [read(x) for x in traced.jaxpr.outvars]


def _equation(equation: Any, *inputs: Any) -> list[Any]:
  primitive, params = equation.primitive, dict(equation.params)
  if primitive.name == "dot_general":
    if params["precision"] != _HIGHEST:
      inputs = tuple(map(_to_tf32, inputs))
  elif primitive.name in ("jit", "remat2", "checkpoint", "custom_jvp_call"):
    inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    if isinstance(inner, core.Jaxpr):
      inner = core.ClosedJaxpr(inner, ())
    return _run(inner, *inputs)
  else:  # Loops and branches.
    params = jax.tree.map(_rewritten, params, is_leaf=_is_program)
  found = primitive.bind(*inputs, **params)
  return list(found) if primitive.multiple_results else [found]


def _is_program(x):
  return isinstance(x, core.ClosedJaxpr)


def _rewritten(x):
  if not _is_program(x):
    return x
  return jax.make_jaxpr(lambda *inputs: _run(x, *inputs))(*x.in_avals)


def _to_tf32(x):
  if x.dtype != jnp.float32:
    return x
  return lax.reduce_precision(x, 8, _MANTISSA_BITS)
