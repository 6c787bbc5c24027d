"""One function as two programs: for its value, and for its gradient."""

from collections.abc import Callable
from typing import Any

import jax


def by_use(
  value: Callable[..., Any], gradient: Callable[..., Any]
) -> Callable[..., Any]:
  """Computes by `value`, but by `gradient` where it is differentiated.

  What is quickest to compute need not be quickest to differentiate: what goes
  token by token needs little work and, for a gradient, every state.

  Args:
    value: a function of pytrees of arrays.
    gradient: the same function, up to rounding.
  """
  function = jax.custom_jvp(value)

  @function.defjvp
  def _(primals, tangents):
    return jax.jvp(gradient, primals, tangents)

  return function
