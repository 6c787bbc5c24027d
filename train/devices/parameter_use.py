"""What a model does with its parameters, read from its traced programs.

Where a parameter is sharded follows from its shape, except for two uses that
the shape does not show:
- A scan over layers reads one entry of the first axis at a time.
- A lookup takes rows of a table, by indices that depend on the batch.
Names show neither use, since a model may call its parameters anything.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

from jaxmodels.analysis.jaxprs import inner_programs
from train.parameters import path_of


def layer_axes(draw: Callable[[Any], Any], seed: Any) -> dict[str, int]:
  """Counts the first axes of parameters along which scans stack layers.

  A scan over layers initialises one layer per iteration, and stacks what the
  iterations return.

  Args:
    draw: Maps a seed to the initial state: see `train.state.initial_state`.
    seed: Any seed.

  Returns:
    The number of such axes by path of a parameter or of another variable of the
    model, for those that have any.
  """
  traced, shapes = jax.make_jaxpr(draw, return_shape=True)(seed)
  paths = [
    path_of(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(shapes)
  ]
  counts: dict[str, int] = {}
  for path, var in zip(paths, traced.jaxpr.outvars, strict=True):
    kind, _, name = path.partition("/")
    if kind == "variables":
      name = name.partition("/")[2]
    if kind in ("params", "variables"):
      count = _stacks(traced.jaxpr, var)
      if count:
        counts[name] = count
  return counts


def _stacks(jaxpr: Any, var: Any) -> int:
  """Counts the nested scans that stack a result of a program."""
  for equation in jaxpr.eqns:
    if var not in equation.outvars:
      continue
    place = equation.outvars.index(var)
    if equation.primitive.name == "scan":
      inner = equation.params["jaxpr"].jaxpr
      stacked = place >= equation.params["num_carry"]
      return stacked + _stacks(inner, inner.outvars[place])
    if equation.primitive.name == "convert_element_type":
      return _stacks(jaxpr, equation.invars[0])
    for inner in inner_programs(equation):
      if len(inner.outvars) == len(equation.outvars):
        return _stacks(inner, inner.outvars[place])
  return 0


def looked_up(function: Callable[..., Any], params: Any, *rest: Any) -> Any:
  """Says which parameters a function looks up entries in.

  Args:
    function: A function of parameters and more.
    params: Its parameters, or their shapes.
    *rest: Its other arguments.

  Returns:
    True or False, in the structure of the parameters.
  """
  traced = jax.make_jaxpr(function)(params, *rest)
  leaves = jax.tree.leaves(params)
  structure: Any = jax.tree.structure(params)
  found: set[int] = set()
  inputs = [
    i if i < len(leaves) else None for i in range(len(traced.jaxpr.invars))
  ]
  _follow(traced.jaxpr, inputs, found)
  marks = [i in found for i in range(len(leaves))]
  return jax.tree.unflatten(structure, marks)


def _follow(
  jaxpr: Any, inputs: Sequence[int | None], found: set[int]
) -> list[int | None]:
  """Follows parameters through a program.

  Args:
    jaxpr: The program.
    inputs: The number of the parameter that each input is, or None.
    found: The numbers of parameters with lookups are added to this set.

  Returns:
    The number of the parameter that each output is, or None.
  """
  known = dict(zip(jaxpr.invars, inputs, strict=True))

  def number(var: Any) -> int | None:
    return None if isinstance(var, core.Literal) else known.get(var)

  for equation in jaxpr.eqns:
    name = equation.primitive.name
    given = [number(var) for var in equation.invars]
    if all(i is None for i in given):
      continue
    if name == "gather" and given[0] is not None:
      found.add(given[0])
    elif name == "convert_element_type":
      known[equation.outvars[0]] = given[0]
    else:
      for inner in inner_programs(equation):
        # The operands come last: `cond` and `while` have others in front.
        used = given[len(given) - len(inner.invars) :]
        if len(used) == len(inner.invars):
          outputs = _follow(inner, used, found)
          if name in _CALLS:
            known.update(zip(equation.outvars, outputs, strict=True))
  return [number(var) for var in jaxpr.outvars]


# Primitives that run another program once, and return what it returns.
_CALLS = ("jit", "pjit", "checkpoint", "custom_jvp_call", "custom_vjp_call")


def axes_of(path: str, counts: Mapping[str, int]) -> int:
  """Looks up the count of `layer_axes` for an array of a state.

  Args:
    path: The path of a parameter, of its gradient or of an optimizer moment,
      which ends in the path of the parameter.
    counts: What `layer_axes` returned.
  """
  names = path.split("/")
  for i in range(len(names)):
    found = counts.get("/".join(names[i:]))
    if found is not None:
      return found
  return 0
