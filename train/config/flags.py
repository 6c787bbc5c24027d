"""Every command's flags: the fields of dataclasses, read and listed by tyro.

The fields of the given instances become flags: `--model.mixers.0.heads 4`. An
instance decides its class, so a field of any type has the flags of the object
in it, and a mixer that is given by name has the flags of the mixer's class.
`tyro` matches the words with the flags and writes `--help`; the values are
parsed in `train.config.words`. A mistake ends in one line that names the flag
and those like it.
"""

import contextlib
import difflib
import functools
import inspect
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import tyro
from flax import linen as nn
from tyro import constructors

from jaxmodels.layers import MLPS
from jaxmodels.mixers import MIXERS
from jaxmodels.mixers.registry import is_pair
from train.config import annotations, serialize, words
from train.errors import UserError, one_line, shown
from train.streams import log

# The annotation of a flag that may be given several times.
Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]
# The fields of a layer that the model sets.
_MODEL_SETS = ("width", "output_scale", "dtype", "param_dtype", "axis_name")
# Behind the name of a group, which may also be the name of a flag.
_INNER = ":"


class _Flag:
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
    if isinstance(self, _Group) and not isinstance(value, tuple | list):
      value = ""
    return words.parse(value, self.hint, self.word, texts)

  def field(self, name: str) -> constructors.StructFieldSpec:
    """The flag as tyro knows it."""
    hint = self.hint
    if hint is not Repeated:
      kind = self.kind.__name__
      if words.is_dtype(self.value, self.word):
        kind = "dtype"
      spec = constructors.PrimitiveConstructorSpec[Any](
        nargs="*" if self.takes_many else 1,
        metavar="VALUE" if kind == "object" else kind.upper(),
        instance_from_str=self.parse,
        is_instance=lambda value: True,
        str_from_instance=words.show,
      )
      hint = Annotated[Any, spec]
    return constructors.StructFieldSpec(name, hint, self.value, self.doc)


class _Group(_Flag):
  """A dataclass, a mapping, a tuple or a named layer: flags of its own."""

  def __init__(self, path: str, value: Any, hint: Any, doc: str, extra: Any):
    super().__init__(path, value, hint, doc)
    self.old = {k: v for k, (v, _, _) in _parts(value, hint, extra).items()}
    self.children: dict[str, _Flag] = {}
    for name, (part, kind, text) in _parts(value, hint, extra).items():
      inner = f"{path}.{name}" if path else name
      options = _options_of(value, name) if extra is None else extra
      child = _opened(inner, part, kind, text, options)
      if isinstance(child, _Group) or words.is_settable(part):
        self.children[name] = child

  @property
  def is_flag(self) -> bool:
    """Whether the whole can be replaced too."""
    return (
      isinstance(self.value, tuple | list)
      or annotations.allows(self.hint, str)
      or annotations.allows(self.hint, tuple)
    )

  def all(self) -> Iterator[_Flag]:
    """Yields what flags can set or open, outer ones first."""
    for child in self.children.values():
      yield child
      if isinstance(child, _Group):
        yield from child.all()

  def child(self, name: str) -> _Flag | None:
    """The child of a name with dashes or underscores."""
    return self.children.get(name) or self.children.get(_plain(name))

  def built(self, **given: Any) -> Any:
    """The value with what the words changed; the same object if nothing."""
    new = dict(self.old)
    for name, child in self.children.items():
      value = given.get(name, child.value)
      if isinstance(child, _Group) and value is child.value:
        value = given.get(name + _INNER, value)
      if value is not words.NEW:
        new[name] = value
    return self.renewed(new)

  def renewed(self, new: dict[str, Any]) -> Any:
    """The value with other parts."""
    old, value = self.old, self.value
    changed = {k: v for k, v in new.items() if k not in old or v is not old[k]}
    if not changed:
      return value
    if isinstance(value, _Several):
      return _Several(
        _Group("", one, Any, "", None).renewed(
          {k: new[k] for k in serialize.config_fields(one)}
        )
        for one in value
      )
    if serialize.is_config(value):
      fields = serialize.config_fields(value) | changed
      key = "config." + self.path if self.path else "config"
      return annotations.build(type(value), fields, key)
    if isinstance(value, Mapping):
      return dict(value) | changed
    if _is_layer(value, self.hint):
      name, own = value if is_pair(value) else (value, {})
      return (name, {**own, **changed})
    return tuple(new.values())


class _Several(tuple):
  """Dataclasses whose fields are flags side by side."""


def _plain(name: str) -> str:
  return name.replace("-", "_")


def _opened(path: str, value: Any, hint: Any, doc: str, extra: Any) -> _Flag:
  """A group for what has flags of its own, else a flag."""
  is_list = isinstance(value, tuple | list) and not (
    all(isinstance(v, words.SCALARS) for v in value)
    and not any(_is_layer(v, annotations.of_entry(hint)) for v in value)
  )
  if (
    serialize.is_config(value)
    or isinstance(value, Mapping)
    or is_list
    or _is_layer(value, hint)
  ):
    return _Group(path, value, hint, doc, extra)
  return _Flag(path, value, hint, doc)


def _is_layer(value: Any, hint: Any) -> bool:
  """Whether a value names a layer, alone or with options."""
  name = value[0] if is_pair(value) else value
  known = isinstance(name, str) and bool(MIXERS.get(name) or MLPS.get(name))
  return known and annotations.allows(hint, nn.Module)


def _options_of(owner: Any, name: str) -> Any:
  """The options that a model has for the layers of its field `name`."""
  if name == "mixers":
    return getattr(owner, "mixer_options", None)
  options = getattr(owner, "mlp_options", None) if name == "mlp" else None
  return options and dict.fromkeys(MLPS, options)


def _parts(
  value: Any, hint: Any, extra: Any
) -> dict[str, tuple[Any, Any, str]]:
  """The value, annotation and documentation of what a value holds, by name."""
  if isinstance(value, _Several):
    return {k: v for one in value for k, v in _parts(one, Any, None).items()}
  if serialize.is_config(value):
    hints = annotations.hints(type(value))
    texts = annotations.documentation(type(value))
    return {
      name: (part, hints.get(name, Any), texts.get(name, ""))
      for name, part in serialize.config_fields(value).items()
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
  make: Any = MIXERS.get(name) or MLPS.get(name)
  inner = make.func if isinstance(make, functools.partial) else make
  hints, texts = annotations.hints(inner), annotations.documentation(inner)
  given = {**extra.get(name, {}), **own}
  parameters = inspect.signature(make).parameters
  found = {
    key: parameter.default
    for key, parameter in parameters.items()
    if key not in (*_MODEL_SETS, *serialize.LINEN_FIELDS)
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


def parse(
  defaults: Sequence[Any], argv: Sequence[str], *, usage: str, about: str
) -> tuple[tuple[Any, ...], list[str]]:
  """Reads flags over dataclasses; prints help and ends at `--help`.

  Args:
    defaults: Instances of dataclasses, whose fields are the flags.
    argv: The arguments.
    usage: How to call the command.
    about: What it does, for help.

  Returns:
    The instances with the values of the flags, and the words that are no
    flags and no values.

  Raises:
    UserError: A flag is unknown, or its value is wrong.
  """
  values = _Several(defaults)
  if any(word in ("-h", "--help") for word in argv):
    _print_help(_Group("", values, Any, "", None), usage, about)
  # What replaces a tuple of layers comes first: its entries have other flags.
  values, rest = _read(_Group("", values, Any, "", None), argv, whole=True)
  root = _Group("", values, Any, "", None)
  values, rest = _read(root, rest, whole=False)
  for word in rest:
    if word.startswith("-"):
      raise UserError(_unknown(word.split("=", 1)[0], root))
  return tuple(values), rest


def only(default: Any, argv: Sequence[str], usage: str, about: str) -> Any:
  """Reads the flags of a command that works on a run; see `parse`.

  Args:
    default: The dataclass of its flags, with a field `workdir`.
    argv: The arguments.
    usage: How to call the command.
    about: What it does, for help.

  Raises:
    UserError: A word is wrong, or there is no `--workdir`.
  """
  (options,), stray = parse((default,), argv, usage=usage, about=about)
  refuse(stray)
  if options.workdir is None:
    raise UserError(f"--workdir is missing: {usage}")
  return options


def refuse(stray: Sequence[str]) -> None:
  """Raises a UserError if there are words that belong to no flag."""
  if stray:
    raise UserError(f"unknown argument {shown(stray[0])}")


def in_range(flag: str, value: int | None, least: int, most: int) -> None:
  """Raises a UserError if the value of a flag is not between two limits."""
  if value is not None and not least <= value <= most:
    given = one_line(str(value), 80)
    raise UserError(f"{flag} is {given}, but must be {least} to {most}")


def take(default: Any, argv: Sequence[str]) -> tuple[Any, list[str]]:
  """Reads the flags of one dataclass, and leaves all other words as they are.

  Args:
    default: The dataclass.
    argv: The arguments.

  Returns:
    The dataclass with the values of the flags, and the other words.

  Raises:
    UserError: A value is wrong.
  """
  root = _Group("", _Several((default,)), Any, "", None)
  values, rest = _read(root, argv, whole=False, only_known=True)
  return values[0], rest


def _read(
  root: _Group,
  argv: Sequence[str],
  *,
  whole: bool,
  only_known: bool = False,
) -> tuple[Any, list[str]]:
  """Lets tyro read words: flags of whole groups, or those of all fields."""
  argv = _joined(root, argv, is_open=not (whole or only_known))
  # Two dashes would make the rest positional.
  if "--" in argv:
    raise UserError(_unknown("--", root))
  return tyro.cli(
    _Group,
    default=root,
    args=argv,
    registry=_registry(whole),
    return_unknown_args=True,
    add_help=False,
    console_outputs=False,
  )


def _registry(whole: bool) -> constructors.ConstructorRegistry:
  registry = constructors.ConstructorRegistry()

  @registry.struct_rule
  def open_group(
    info: constructors.StructTypeInfo,
  ) -> constructors.StructConstructorSpec | None:
    group = info.default
    if not isinstance(group, _Group):
      return None
    fields = []
    for name, child in group.children.items():
      is_group = isinstance(child, _Group)
      if child.is_flag if isinstance(child, _Group) else not whole:
        fields.append(child.field(name))
      if is_group:
        kind: Any = Annotated[_Group, tyro.conf.arg(name=name)]
        fields.append(
          constructors.StructFieldSpec(name + _INNER, kind, child, child.doc)
        )
    return constructors.StructConstructorSpec(group.built, tuple(fields))

  return registry


def _joined(root: _Group, argv: Sequence[str], *, is_open: bool) -> list[str]:
  """The words with each single value joined to its flag by "="."""
  joined, left = [], list(argv)
  while left:
    word = left.pop(0)
    name, equals, _ = word.partition("=")
    flag = _find(root, name[2:], is_open) if name[:2] == "--" else None
    if flag is None and not equals:
      *front, last = name[2:].rpartition(".")
      off = last.startswith("no-") or last.startswith("no_")
      flag = _find(root, "".join((*front, last[3:])), False) if off else None
      if flag is not None and flag.kind is bool:
        joined.append(f"{flag.word}=False")
        continue
      flag = None
    if (
      flag is None or equals or (isinstance(flag, _Group) and not flag.is_flag)
    ):
      joined.append(word)
      continue
    has_value = bool(left) and not re.match(r"--|-[a-zA-Z]", left[0])
    if flag.kind is bool and not has_value:
      joined.append(word + "=True")
    elif not has_value and (not left or left[0].startswith("--")):
      raise UserError(f"{flag.word} needs a value")
    elif flag.takes_many:
      joined.append(word)
    else:
      joined.append(f"{word}={left.pop(0)}")
  return joined


def _find(root: _Group, key: str, is_open: bool) -> _Flag | None:
  """The flag of a key; in a mapping of options, a key may be new."""
  group, names = root, key.split(".")
  for i, name in enumerate(names):
    found = group.child(name)
    if found is None and is_open and isinstance(group.value, Mapping):
      found = _added(group, _plain(name), key, is_last=i == len(names) - 1)
    if found is None or i == len(names) - 1:
      return found
    if not isinstance(found, _Group):
      return None
    group = found
  return None


def _added(group: _Group, name: str, key: str, *, is_last: bool) -> _Flag:
  """A new option, which the module checks that takes it."""
  # An option must not hide a method of the mapping.
  if hasattr(dict, name) or not re.fullmatch(r"[\w-]+(\.[\w-]+){1,9}", key):
    shown_key = one_line(f"--{key}", 200)
    raise UserError(f"{shown_key} cannot be the name of an option")
  path = f"{group.path}.{name}"
  made = _Flag(path, words.NEW) if is_last else _Group(path, {}, Any, "", None)
  group.children[name] = made
  return made


def _unknown(word: str, root: _Group) -> str:
  """Says that a flag is unknown, and which ones the user may have meant."""
  shown_word = one_line(word, 200)
  key = _plain(word.lstrip("-")).removeprefix("config.")
  found = _find(root, key, False)
  if isinstance(found, _Group) and key:
    inner = ", ".join(flag.word for flag in found.children.values())
    return f"unknown flag {shown_word}: it has flags of its own, {inner}"
  return f"unknown flag {shown_word}{_near(key, root)}"


def _near(key: str, root: _Group) -> str:
  known = {flag.path: flag.word for flag in root.all()}
  matches = difflib.get_close_matches(key[:200], known, n=3, cutoff=0.7)
  last = key[-200:].rsplit(".", 1)[-1]
  ends: dict[str, list[str]] = {}
  for option in known:
    ends.setdefault(option.rsplit(".", 1)[-1], []).append(option)
  for end in difflib.get_close_matches(last, ends, n=2, cutoff=0.7):
    matches.extend(o for o in ends[end] if o not in matches)
  if not matches:
    parent = key.rpartition(".")[0]
    inside = [k for k in known if k.rpartition(".")[0] == parent]
    inside = inside or [k for k in known if "." not in k]
    return "; there are " + ", ".join(known[k] for k in inside)
  return "; did you mean " + " or ".join(known[m] for m in matches[:4]) + "?"


def _print_help(root: _Group, usage: str, about: str) -> None:
  """Prints all flags with their documentation as plain text, and ends."""
  text = io.StringIO()
  # A stream that is no terminal gets neither colours nor frames.
  with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
    tyro.cli(
      _Group,
      prog="",
      description="",
      default=root,
      args=["-h"],
      registry=_registry(whole=False),
    )
  _, *lines = (line.rstrip() for line in text.getvalue().splitlines())
  log("\n".join((f"usage: {usage}", "", about.strip(), *lines)))
  raise SystemExit(0)
