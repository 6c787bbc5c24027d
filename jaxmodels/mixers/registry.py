"""Layers of a stack: modules, names, or names with options."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

import flax.linen as nn
import jax

from jaxmodels.layers import MLPS
from jaxmodels.layers.mlp import ChannelMixer
from jaxmodels.mixers import MIXERS, contract

__all__ = [
  "Entry",
  "UnknownNameError",
  "is_pair",
  "make_mixer",
  "make_mlp",
  "make_module",
  "pick",
]

# One layer's mixer or channel mixer in the list of a stack.
Entry = str | nn.Module | tuple[str, Mapping[str, Any]]


class UnknownNameError(ValueError):
  """No layer of this name is registered."""


def make_module(
  kind: str,
  entry: Entry,
  options: Mapping[str, Any],
  common: Mapping[str, Any],
) -> nn.Module | None:
  """The module that an entry of a stack stands for, bound to no scope.

  Args:
    kind: "mixer" or "mlp".
    entry: A module, a name, or a name and its fields.
    options: Fields for an entry that is a name; those of a pair come on top.
    common: Fields that the model sets.

  Raises:
    ValueError: As `make_mixer`; also for a module in which a field that the
      model sets has a value of its own.
  """
  if isinstance(entry, ChannelMixer):
    kind = "mlp"  # Also among the mixers, as a layer without a mixer.
  module = _made_of(kind, entry, options, common)
  if kind == "mlp" and module is not None and "axis_name" in common:
    _check_cut(module)
  return module


def _made_of(
  kind: str,
  entry: Any,
  options: Mapping[str, Any],
  common: Mapping[str, Any],
) -> nn.Module | None:
  if isinstance(entry, nn.Module):
    if kind == "mlp":
      common = _without_axis(set(entry.__dataclass_fields__), common)
    return _with_common(kind, entry, common)
  if isinstance(entry, str):
    entry = (entry, {})
  if not is_pair(entry):
    if isinstance(entry, type):
      entry = f"the class {entry.__name__}: write {entry.__name__}(...)"
    raise ValueError(
      f"a {kind} is a module, a name or (name, options), got {entry}"
    )
  name, own = entry
  make = {"mixer": make_mixer, "mlp": make_mlp}[kind]
  return make(name, {**options, **own}, **common, parent=None)


def _check_cut(mlp: nn.Module) -> None:
  """Checks that a channel mixer with a state supports sharded sequences."""
  if hasattr(mlp, "axis_name"):
    return
  state = jax.eval_shape(lambda: contract.zero_state(mlp, 1))
  if jax.tree.leaves(state):
    raise ValueError(
      f"mlp {type(mlp).__name__} does not support sharded sequences: it has a"
      " state, and no field axis_name"
    )


def is_pair(entry: Any) -> TypeGuard[tuple[str, Mapping[str, Any]]]:
  """Whether an entry is (name, options)."""
  return (
    isinstance(entry, tuple | list)
    and len(entry) == 2
    and isinstance(entry[0], str)
    and isinstance(entry[1], Mapping)
  )


def _with_common(
  kind: str, module: nn.Module, common: Mapping[str, Any]
) -> nn.Module:
  """A copy of a module with the fields that the model sets."""
  what = f"{kind} {type(module).__name__}"
  fields = {field.name: field for field in dataclasses.fields(module)}
  _check_common(what, type(module).__name__, set(fields), common)
  for name, value in common.items():
    own = getattr(module, name)
    if own != value and own != fields[name].default:
      raise ValueError(
        f"{what}: {name} is {own!r}, but the model sets {value!r}"
      )
  return module.copy(parent=None, name=None, **common)


def make_mixer(
  name: str, options: Mapping[str, Any], /, **common: Any
) -> nn.Module:
  """The mixer of that name.

  Args:
    name: A key of `jaxmodels.mixers.MIXERS`.
    options: Fields that differ from the mixer's defaults.
    **common: Fields that the model sets.

  Raises:
    ValueError: For an unknown name or field, with near matches, or a module
      without the fields that the model sets.
  """
  make = pick("mixer", name, MIXERS)
  _check_fields(f"mixer {name!r}", make, options, common)
  return _made(make, **common, **options)


def make_mlp(
  name: str, options: Mapping[str, Any], /, **common: Any
) -> nn.Module | None:
  """The channel mixer of that name, as `make_mixer`; None for "none"."""
  make = pick("mlp", name, MLPS)
  if make is None:
    if options:
      raise ValueError(f"mlp {name!r} has no options, got {', '.join(options)}")
    return None
  common = _without_axis(_fields(make), common)
  _check_fields(f"mlp {name!r}", make, options, common)
  return _made(make, **common, **options)


def pick(kind: str, name: str, table: Mapping[str, Any]) -> Any:
  """table[name], or an UnknownNameError with near matches."""
  if name not in table:
    raise UnknownNameError(f"unknown {kind} {name!r}{_near(name, table)}")
  return table[name]


def _check_fields(
  what: str,
  make: Callable[..., nn.Module],
  options: Mapping[str, Any],
  common: Mapping[str, Any],
) -> None:
  """Checks that `make` takes what the model sets, and the options."""
  fields = _fields(make)
  if fields is None:
    return
  module = make.func if isinstance(make, functools.partial) else make
  module_name = getattr(module, "__name__", repr(module))
  _check_common(what, module_name, fields, common)
  fields -= {"parent", "name", "axis_name", *common}
  for option in options:
    if option in common or option == "axis_name":
      raise ValueError(
        f"options of {what}: {option!r} is set by the model itself"
      )
    if option not in fields:
      raise ValueError(
        f"options of {what}: unknown field {option!r}{_near(option, fields)}"
      )


def _without_axis(
  fields: set[str] | None, common: Mapping[str, Any]
) -> dict[str, Any]:
  """What the model sets of a channel mixer, most of which see no neighbour."""
  left_out = () if fields is None or "axis_name" in fields else ("axis_name",)
  return {name: x for name, x in common.items() if name not in left_out}


def _check_common(
  what: str, module_name: str, fields: set[str], common: Mapping[str, Any]
) -> None:
  """Checks that a module has the fields that the model sets."""
  if "axis_name" in common and "axis_name" not in fields:
    raise ValueError(
      f"{what} does not support sharded sequences: it has no field axis_name"
    )
  for field in common:
    if field not in fields:
      raise ValueError(
        f"{what}: {module_name} has no field {field}, which the model "
        f"sets; it needs {', '.join(common)}"
      )


def _fields(make: Callable[..., nn.Module]) -> set[str] | None:
  """The fields of a module or parameters of a function; None: takes any."""
  if not callable(make):
    raise ValueError(f"{make!r} is registered as a layer, but makes none")
  parameters = inspect.signature(make).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return None
  return set(parameters)


def _made(make: Callable[..., nn.Module], **fields: Any) -> nn.Module:
  made = make(**fields)
  if not isinstance(made, nn.Module):
    raise ValueError(f"{make!r} is registered as a layer, but makes {made!r}")
  return made


def _near(name: str, known: Iterable[str]) -> str:
  known = sorted(known)
  near = difflib.get_close_matches(name, known, 3, 0.5)
  if near:
    return f"; did you mean {' or '.join(map(repr, near))}?"
  return f"; known are {', '.join(known)}"
