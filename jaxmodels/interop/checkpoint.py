"""Loads a model from a folder of a published checkpoint, and saves it back."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxmodels.interop import folder as files
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.context import with_max_length
from jaxmodels.interop.defaults import explicit
from jaxmodels.interop.families import FAMILIES, family_of
from jaxmodels.interop.family import Family
from jaxmodels.interop.int8 import Int8Kernel, is_kernel, quantize
from jaxmodels.interop.layers import Layers
from jaxmodels.interop.rules import Rule
from jaxmodels.layers.common import wide
from jaxmodels.models import LanguageModel
from jaxmodels.models.block import Block

__all__ = ["load", "read_model", "save"]

Sharding = jax.sharding.Sharding
Placement = Sharding | Callable[[str, tuple[int, ...]], Sharding] | None


def load(
  path: str | os.PathLike[str],
  *,
  dtype: jnp.dtype | None = None,
  placement: Placement = None,
  scan_layers: bool = False,
  max_length: int | None = None,
  int8: bool = False,
) -> tuple[LanguageModel, dict[str, Any]]:
  """Loads a model from a folder in the layout of Hugging Face.

  The folder holds `config.json` and `model.safetensors`, or several such files
  and their index. One tensor at a time is in the memory of the host. Nothing is
  fetched from a network, and no file that can run code is opened.

  Args:
    path: The folder.
    dtype: The dtype of the computation, by default float32, or float64 for
      files in float64. Parameters keep the dtypes of the file.
    placement: Where parameters go: a sharding for all, or a function of the
      path ("backbone/layer_0/mixer/D") and the shape. None is the default
      device.
    scan_layers: Whether the model scans over repeats of its pattern of layers,
      which compiles faster; see `Backbone`.
    max_length: The most tokens of a sequence, for layers of full attention,
      whose caches have room for so many; None is that of the config.
    int8: Whether kernels are stored in int8, see `jaxmodels.interop.int8`.
      Such variables cannot be trained or saved. It excludes `placement` and
      `scan_layers`.

  Returns:
    The model, and its variables: `model.apply(variables, tokens)`.

  Raises:
    FolderError: A file is missing or damaged, an architecture, a key of the
      config or a tensor is unknown, or a shape is wrong. One line says which.
  """
  root = pathlib.Path(path)
  if int8 and (scan_layers or placement is not None):
    raise FolderError("load: int8 excludes scan_layers and placement")
  family, model = _read_config(root)
  if max_length is not None:
    model = with_max_length(model, max_length)
  with _named(root):
    model = model.copy(scan_layers=scan_layers, parent=None)
    rules = list(family.rules(model))
    tensors = files.Tensors(root, family.rename, _names(rules), family.skip)
    rules = _of_file(rules, tensors)
    layers = Layers(model)
    _check_names(family, rules, tensors, layers)
    params: dict[str, jax.Array] = {}
    for rule in (rule for rule in rules if rule.ours):
      for ours, value in _read(rule, tensors):
        layers.put(params, ours, _stored(ours, value, int8), placement)
  kinds = [jnp.dtype(x.dtype) for x in params.values()]
  stored = max(set(kinds), key=kinds.count)
  computed = dtype or wide(stored)
  model = model.copy(dtype=computed, param_dtype=stored, parent=None)
  return model, {"params": traverse_util.unflatten_dict(params, sep="/")}


def read_model(path: str | os.PathLike[str]) -> LanguageModel:
  """Reads the model of a folder from its config; its tensors are not read.

  Args:
    path: As for `load`.

  Raises:
    FolderError: As for `load`, as far as the config goes.
  """
  return _read_config(pathlib.Path(path))[1]


def save(
  path: str | os.PathLike[str],
  model: LanguageModel,
  variables: Mapping[str, Any],
  *,
  like: str | os.PathLike[str] | None = None,
  family: str | None = None,
  shard_bytes: int = 2 << 30,
) -> None:
  """Saves a model as a folder in the layout of Hugging Face.

  Tensors have the dtypes of the parameters. Tensors of one file at a time are
  in the memory of the host.

  Args:
    path: The folder; it is made if it is not there.
    model: A model of a published family, such as one that `load` returned.
    variables: Its variables.
    like: A folder whose config gives the family, and the keys that do not
      change what a model computes, such as the ids of special tokens. Where a
      family has several names for a tensor, the name in this folder is written,
      and where a family cuts tensors in several ways, the way of this folder.
    family: A key of `FAMILIES`, where the model fits several families.
    shard_bytes: The largest size of a file, in bytes.

  Raises:
    FolderError: No family can express the model: the message names the field
      that its config cannot hold.
  """
  given = {} if like is None else files.read_config(pathlib.Path(like))
  chosen, values = _written(model, family, given)
  layers = Layers(model)
  params = traverse_util.flatten_dict(variables["params"], sep="/")
  if any(isinstance(x, Int8Kernel) for x in params.values()):
    raise FolderError("save: variables in int8 cannot be saved")
  rules = list(chosen.rules(model))
  _check_left({p for r in rules for p in r.ours}, layers, params)
  source = None if like is None else _source(pathlib.Path(like), chosen, rules)
  rules = rules if source is None else _of_file(rules, source)

  def tensors() -> Iterator[tuple[str, np.ndarray]]:
    for rule in (rule for rule in rules if not rule.optional):
      ours = [np.asarray(layers.get(params, path)) for path in rule.ours]
      yield from _like(source, rule, rule.write(ours))

  root = pathlib.Path(path)
  root.mkdir(parents=True, exist_ok=True)
  files.write_tensors(root, tensors(), shard_bytes)
  files.write_config(root, {**given, **values})


def _read_config(root: pathlib.Path) -> tuple[Family, LanguageModel]:
  """The family and the model of a folder."""
  config = Config(files.read_config(root))
  with _named(root):
    family = family_of(config)
    model = family.read(config)
    config.check_all_read()
  return family, model


def _names(rules: list[Rule]) -> set[str]:
  """The names of their tensors in rules."""
  every = [*rules, *(rule.instead for rule in rules if rule.instead)]
  return {name for rule in every for name in rule.theirs}


def _of_file(rules: list[Rule], tensors: files.Tensors) -> list[Rule]:
  """The rules, or those instead of them whose tensors a file has."""

  def has(rule: Rule) -> bool:
    return any(name in tensors for name in rule.theirs)

  def of_file(rule: Rule) -> Rule:
    other = rule.instead
    return rule if other is None or has(rule) or not has(other) else other

  return [of_file(rule) for rule in rules]


def _source(
  folder: pathlib.Path, family: Family, rules: list[Rule]
) -> files.Tensors | None:
  """The tensors of a folder, if it has any."""
  if not files.has_tensors(folder):
    return None
  return files.Tensors(folder, family.rename, _names(rules), family.skip)


def _like(
  source: files.Tensors | None, rule: Rule, values: Sequence[np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
  """Tensors of a rule with the names and the cuts of a folder."""
  if source is None or any(name not in source for name in rule.theirs):
    yield from zip(rule.theirs, values, strict=True)
    return
  if rule.recut:
    sizes = [source.shape(name)[0] for name in rule.theirs]
    if sum(sizes) == sum(len(x) for x in values):
      values = np.split(np.concatenate(values), np.cumsum(sizes)[:-1])
  names = [source.name_in_file(name) for name in rule.theirs]
  yield from zip(names, values, strict=True)


def _read(
  rule: Rule, tensors: files.Tensors
) -> Iterator[tuple[str, np.ndarray]]:
  """Our parameters of a rule."""
  values = [tensors.read(name) for name in rule.theirs]
  try:
    yield from zip(rule.ours, rule.read(values), strict=True)
  except (ValueError, IndexError) as error:
    shapes = ", ".join(
      f"{name} {list(value.shape)}"
      for name, value in zip(rule.theirs, values, strict=True)
    )
    raise FolderError(f"{shapes} does not fit the config: {error}") from error


def _stored(
  path: str, value: np.ndarray, int8: bool
) -> np.ndarray | Int8Kernel:
  """A parameter as the variables hold it."""
  if jax.typeof(value).dtype != value.dtype:
    raise FolderError(
      f"{path} is {value.dtype}: switch jax_enable_x64 on to load it"
    )
  return quantize(value) if int8 and is_kernel(path, value) else value


def _check_names(
  family: Family, rules: list[Rule], tensors: files.Tensors, layers: Layers
) -> None:
  """Checks that no tensor and no parameter is left over or made twice."""
  # A constant, which makes no parameter, may be missing.
  needed = [name for r in rules if r.ours for name in r.theirs]
  missing = [name for name in needed if name not in tensors]
  if missing:
    raise FolderError(f"a {family.name} needs the tensors {_few(missing)}")
  unknown = sorted(set(tensors) - {x for r in rules for x in r.theirs})
  if unknown:
    raise FolderError(
      f"a {family.name} with this config has no tensors {_few(unknown)}"
    )
  made = [path for rule in rules for path in rule.ours]
  assert len(set(made)) == len(made), "two rules make one parameter"
  wrong = set(made) ^ layers.paths
  assert not wrong, f"rules and model differ in {_few(sorted(wrong))}"


def _check_left(
  made: set[str], layers: Layers, params: Mapping[str, Any]
) -> None:
  wrong = {layers.stored_path(p) for p in made} ^ set(params)
  if wrong:
    raise FolderError(
      f"the variables and the model differ in {_few(sorted(wrong))}"
    )


def _few(names: list[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def _written(
  model: LanguageModel, name: str | None, given: dict[str, Any]
) -> tuple[Family, dict[str, Any]]:
  """The family of a model, and the values of its config."""
  if name is not None and name not in FAMILIES:
    raise FolderError(f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
  if name is not None:
    candidates = [FAMILIES[name]]
  elif given:
    candidates = [family_of(Config(given))]
  else:
    kinds = {type(block.mixer.module) for block in model.blocks()}
    candidates = [f for f in FAMILIES.values() if kinds <= set(f.kinds)]
  problems = []
  for family in candidates:
    values: dict[str, Any] = {}
    if family.model_types:
      values["architectures"] = [family.architecture]
      values["model_type"] = family.model_types[0]
    try:
      values |= family.write(model)
      problem = difference(model, family.read(Config(values)))
    # A family may fail on a model that is not its own.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
      problem = f"the model: {error}"
    if problem is None:
      return family, values
    problems.append(f"{family.name} cannot hold {problem}")
  raise FolderError(
    "; ".join(problems) or "no family of interop has the mixers of this model"
  )


# Fields of models and layers that are compared as layers and modules.
_PARTS = ("mixers", "mlp", "mixer")
# Fields that a config does not hold, or that `blocks` holds.
_OWN = (
  "dtype", "param_dtype", "scan_layers", "remat", "axis_name", "mixer_options",
  "mlp_options", "parent", "name",
)  # fmt: skip


def difference(model: LanguageModel, other: LanguageModel) -> str | None:
  """The first field in which two models differ, as text."""
  same = {name: getattr(model, name) for name in _OWN[:2]}
  other = other.copy(parent=None, **same)
  model = model.copy(parent=None, axis_name=None)
  pairs: list[tuple[str, Any, Any]] = [("the model", model, other)]
  if model.depth == other.depth:
    layers = zip(model.blocks(), other.blocks(), strict=True)
    for i, (mine, read) in enumerate(layers):
      pairs.append((f"layer {i}", mine, read))
      for part in ("mixer", "mlp"):
        own, theirs = getattr(mine, part), getattr(read, part)
        if type(own) is type(theirs) and own is not None:
          what = f"the {part} of layer {i}"
          pairs.append((what, explicit(own.module), explicit(theirs.module)))
  for what, mine, read in pairs:
    if type(mine) is not type(read):
      return f"{what}: {type(mine).__name__} against {type(read).__name__}"
    whole = isinstance(mine, LanguageModel | Block)
    for field in dataclasses.fields(mine):
      if field.name in _OWN or (whole and field.name in _PARTS):
        continue
      a, b = getattr(mine, field.name), getattr(read, field.name)
      if a != b:
        return f"{field.name} = {a!r} of {what}: it would be read as {b!r}"
  return None


@contextlib.contextmanager
def _named(root: pathlib.Path) -> Iterator[None]:
  """Puts the folder in front of messages that do not name it."""
  try:
    yield
  except FolderError as error:
    if str(error).startswith(str(root)):
      raise
    raise FolderError(f"{root}: {error}") from error
