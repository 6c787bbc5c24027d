"""The fields of configs, as a tree of flags.

An instance decides its class: a field of any type has the flags of the object
in it, and a mixer that is given by name has the flags of the mixer's class.
"""

import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import tyro
from tyro import constructors

from train.errors import UserError, shown
from train.flags import annotations, kinds, words
from train.flags.kinds import is_pair

# The annotation of a flag that may be given several times.
Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]
# The fields of a layer that the model sets.
_MODEL_SETS = ("width", "output_scale", "dtype", "param_dtype", "axis_name")
# Behind the name of a group, which may also be the name of a flag.
INNER = ":"


class Flag:
  """One field: its flag, value, annotation and documentation."""

  def __init__(self, path: str, value: Any, hint: Any = Any, doc: str = ""):
    self.path, self.value, self.hint, self.doc = path, value, hint, doc

  @property
  def word(self) -> str:
    """The flag as help spells it."""
    return "--" + self.path.replace("_", "-")

  @property
  def kind(self) -> type:
    """The type of the next value."""
    return words.kind_of(self.value, self.hint)

  @property
  def takes_many(self) -> bool:
    """Whether several words may follow the flag."""
    if self.hint is Repeated:
      return False
    return self.kind is tuple or annotations.allows(self.hint, tuple)

  def parse(self, texts: list[str]) -> Any:
    """The value of the words after the flag."""
    value = self.value
    if isinstance(self, Group) and not isinstance(value, tuple | list):
      value = ""
    return words.parse(value, self.hint, self.word, texts)

  def field(self, name: str) -> constructors.StructFieldSpec:
    """The flag as tyro knows it."""
    hint = self.hint
    if hint is not Repeated:
      kind = self.kind.__name__
      if words.is_dtype(self.value, self.word):
        kind = "dtype"
      known = {"object": "VALUE", "tuple": "VALUE ..."}
      spec = constructors.PrimitiveConstructorSpec[Any](
        nargs="*" if self.takes_many else 1,
        metavar=known.get(kind, kind.upper()),
        instance_from_str=self.parse,
        is_instance=lambda value: True,
        str_from_instance=words.show,
      )
      hint = Annotated[Any, spec]
    return constructors.StructFieldSpec(name, hint, self.value, self.doc)


class Group(Flag):
  """A dataclass, a mapping, a tuple or a named layer: flags of its own."""

  def __init__(
    self,
    path: str,
    value: Any,
    hint: Any = Any,
    doc: str = "",
    extra: Any = None,
  ):
    super().__init__(path, value, hint, doc)
    self.children: dict[str, Flag] = {}
    for name, (part, kind, text) in _parts(value, hint, extra).items():
      inner = f"{path}.{name}" if path else name
      options = _options_of(value, name) if extra is None else extra
      child = _opened(inner, part, kind, text, options)
      if isinstance(child, Group) or words.is_settable(part):
        self.children[name] = child

  @property
  def is_flag(self) -> bool:
    """Whether the whole can be replaced too."""
    return (
      isinstance(self.value, tuple | list)
      or annotations.allows(self.hint, str)
      or annotations.allows(self.hint, tuple)
    )

  def all(self) -> Iterator[Flag]:
    """Yields what flags can set or open, outer ones first."""
    for child in self.children.values():
      yield child
      if isinstance(child, Group):
        yield from child.all()

  def child(self, name: str) -> Flag | None:
    """The child of a name with dashes or underscores."""
    return self.children.get(name) or self.children.get(plain(name))

  def built(self, **given: Any) -> Any:
    """The value with what the words changed; the same object if nothing."""
    new = {}
    for name, child in self.children.items():
      value = given.get(name, child.value)
      if isinstance(child, Group) and value is child.value:
        value = given.get(name + INNER, value)
      if value is not child.value:
        new[name] = value
    return _renewed(self.value, self.hint, self.path, new)


class Several(tuple):
  """Dataclasses whose fields are flags side by side."""


def _renewed(value: Any, hint: Any, path: str, new: dict[str, Any]) -> Any:
  """The value with new parts; the same object if there are none."""
  if not new:
    return value
  if isinstance(value, Several):
    return Several(
      _renewed(one, Any, path, {k: new[k] for k in _parts(one) if k in new})
      for one in value
    )
  if kinds.is_config(value):
    key = f"config.{path}" if path else "config"
    fields = kinds.config_fields(value) | new
    return annotations.build(type(value), fields, key)
  if isinstance(value, Mapping):
    return dict(value) | new
  if _is_layer(value, hint):
    name, own = value if is_pair(value) else (value, {})
    return (name, {**own, **new})
  return tuple(new.get(str(i), part) for i, part in enumerate(value))


def plain(name: str) -> str:
  """The name of a field: underscores for the dashes of a flag."""
  return name.replace("-", "_")


def _opened(path: str, value: Any, hint: Any, doc: str, extra: Any) -> Flag:
  """A group for what has flags of its own, else a flag."""
  is_list = isinstance(value, tuple | list) and not (
    all(isinstance(v, words.SCALARS) for v in value)
    and not any(_is_layer(v, annotations.of_entry(hint)) for v in value)
  )
  if (
    kinds.is_config(value)
    or isinstance(value, Mapping)
    or is_list
    or _is_layer(value, hint)
  ):
    return Group(path, value, hint, doc, extra)
  return Flag(path, value, hint, doc)


def _is_layer(value: Any, hint: Any) -> bool:
  """Whether a value names a layer, alone or with options."""
  name = value[0] if is_pair(value) else value
  if not isinstance(name, str) or not annotations.allows_module(hint):
    return False
  return kinds.layers().get(name) is not None


def _options_of(owner: Any, name: str) -> Any:
  """The options that a model has for the layers of its field `name`."""
  if name == "mixers":
    return getattr(owner, "mixer_options", None)
  options = getattr(owner, "mlp_options", None) if name == "mlp" else None
  return options and dict.fromkeys(kinds.layers(), options)


def _parts(
  value: Any, hint: Any = Any, extra: Any = None
) -> dict[str, tuple[Any, Any, str]]:
  """The value, annotation and documentation of what a value holds, by name."""
  if isinstance(value, Several):
    return {k: v for one in value for k, v in _parts(one).items()}
  if kinds.is_config(value):
    hints = annotations.hints(type(value))
    texts = annotations.documentation(type(value))
    return {
      name: (part, hints.get(name, Any), texts.get(name, ""))
      for name, part in kinds.config_fields(value).items()
    }
  if isinstance(value, Mapping):
    if not all(isinstance(name, str) for name in value):
      raise UserError(f"options are named by strings, not as in {shown(value)}")
    return {name: (part, Any, "") for name, part in value.items()}
  if _is_layer(value, hint):
    return _layer_parts(value, extra or {})
  entry = annotations.of_entry(hint)
  return {str(i): (part, entry, "") for i, part in enumerate(value)}


def _layer_parts(
  value: Any, extra: Mapping[str, Any]
) -> dict[str, tuple[Any, Any, str]]:
  """As `_parts`, of a layer that is given by name."""
  name, own = value if is_pair(value) else (value, {})
  make: Any = kinds.layers()[name]
  inner = make.func if isinstance(make, functools.partial) else make
  hints, texts = annotations.hints(inner), annotations.documentation(inner)
  given = {**extra.get(name, {}), **own}
  parameters = inspect.signature(make).parameters
  found = {
    key: parameter.default
    for key, parameter in parameters.items()
    if key not in (*_MODEL_SETS, *kinds.LINEN_FIELDS)
    and parameter.kind
    in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
  }
  found = {
    k: words.NEW if v is inspect.Parameter.empty else v
    for k, v in found.items()
  }
  return {
    key: (part, hints.get(key, Any), texts.get(key, ""))
    for key, part in {**found, **given}.items()
  }
