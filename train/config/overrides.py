"""`--config.KEY=VALUE` over a config.

The config is opened into a tree of its dataclasses, mappings and tuples, each
word changes one leaf, and what has changed is built anew at the end, so that
fields that depend on one another can change together. A mistake ends in one
line that names the key and those like it.
"""

import ast
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from train.config import serialize, typed
from train.config.schema import Config
from train.errors import UserError, one_line, shown

_NONE = ("none", "None", "null")
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")
_SCALARS = (bool, int, float, str)


def override(config: Config, argv: Sequence[str]) -> Config:
  """Applies `--config.KEY=VALUE` arguments to a config.

  A key is a path: names of fields and of options, and numbers of entries of a
  tuple, as in `model.mixers.0.heads`.

  Args:
    config: The config.
    argv: The arguments, nothing but overrides.

  Raises:
    UserError: A key is unknown or a value is not of the key's type.
  """
  tree = _Node(config, type(config))
  words = iter(argv)
  for word in words:
    key, text = _split(word, tree)
    holder, name = _find(tree, key)
    is_flag = text is None and isinstance(holder.children.get(name), bool)
    if is_flag:
      text = str(not word.lstrip("-").startswith("no"))
    elif text is None:
      text = next(words, None)
      if text is None or text.startswith("--"):
        raise UserError(f"--config.{key} needs a value")
    holder.children[name] = _parse(holder, name, text, f"config.{key}")
  return typing.cast(Config, tree.built("config"))


class _Node:
  """A dataclass, a mapping or a tuple, opened.

  Attributes:
    old: The value itself.
    hint: Its annotation.
    children: By name, nodes and leaves.
  """

  def __init__(self, old: Any, hint: Any):
    self.old, self.hint = old, hint
    self._hints = typed.hints(type(old)) if serialize.is_config(old) else {}
    self._parts = _parts(old)
    self.children = {
      name: _opened(value, self.hint_of(name))
      for name, value in self._parts.items()
    }

  def hint_of(self, name: str) -> Any:
    """The annotation of a child."""
    if isinstance(self.old, tuple | list):
      return typed.hint_of_entry(self.hint, int(name))
    return self._hints.get(name, Any)

  def paths(self, prefix: str = "") -> Iterator[str]:
    """Yields the paths of what can be set, and of what holds it."""
    for name, child in self.children.items():
      if isinstance(child, _Node):
        yield prefix + name
        yield from child.paths(f"{prefix}{name}.")
      elif _is_open(child):
        yield prefix + name

  def built(self, key: str) -> Any:
    """The value with what has changed, or the old one if nothing has."""
    new = {
      name: child.built(f"{key}.{name}") if isinstance(child, _Node) else child
      for name, child in self.children.items()
    }
    old = self._parts
    if new.keys() == old.keys() and all(new[k] is old[k] for k in new):
      return self.old
    if serialize.is_config(self.old):
      return typed.build(type(self.old), new, key)
    return new if isinstance(self.old, Mapping) else tuple(new.values())


def _parts(value: Any) -> dict[str, Any]:
  """What a dataclass, a mapping or a tuple holds, by name."""
  if serialize.is_config(value):
    return serialize.config_fields(value)
  if isinstance(value, Mapping):
    if not all(isinstance(name, str) for name in value):
      raise UserError(f"options are named by strings, not as in {shown(value)}")
    return dict(value)
  return {str(i): entry for i, entry in enumerate(value)}


def _opened(value: Any, hint: Any) -> Any:
  """A node for what has keys of its own, else the value as a leaf."""
  is_list = isinstance(value, tuple | list)
  if serialize.is_config(value) or isinstance(value, Mapping):
    return _Node(value, hint)
  if is_list and not all(isinstance(v, _SCALARS) for v in value):
    return _Node(value, hint)
  return value


def _is_open(leaf: Any) -> bool:
  """Whether words can set a leaf: not functions, arrays and the like."""
  known = (*_SCALARS, tuple, list, type(None))
  return isinstance(leaf, known) or serialize.dtype_name(leaf) is not None


def _split(word: str, tree: _Node) -> tuple[str, str | None]:
  """The key of a word, and the text behind its "=" if it has one."""
  found = re.match(r"--?(?:no)?config\.([^=]*)(?:=(.*))?$", word, re.DOTALL)
  if found:
    return found[1], found[2]
  if not word.startswith("-"):
    raise UserError(f"unknown argument {word!r}")
  flag = word.split("=", 1)[0]
  flags = ["--config", "--workdir", "--distributed", "--profile_steps"]
  flags += ["--new_data", *(f"--config.{k}" for k in tree.paths())]
  raise UserError(f"unknown flag {flag}{_near(flag, flags)}")


def _find(tree: _Node, key: str) -> tuple[_Node, str]:
  """The node that holds a key, and the name of the key in it.

  In a mapping of options a key may be new: which options there are, only the
  module knows that takes them; it refuses unknown ones itself.
  """
  holder = tree
  *parents, last = key.split(".")
  for i, name in enumerate((*parents, last)):
    child = holder.children.get(name)
    if isinstance(holder.old, Mapping) and name not in holder.children:
      # What a mapping has of its own, no entry can be called.
      if hasattr(dict, name) or not re.fullmatch(r"[\w-]+(\.[\w-]+){1,9}", key):
        raise UserError(f"config.{key} cannot be the name of an option")
      if i < len(parents):
        child = holder.children[name] = _Node({}, Any)
    elif not (isinstance(child, _Node) or _is_known(holder, name)):
      break
    if i == len(parents):
      return holder, last
    if not isinstance(child, _Node):
      break
    holder = child
  known = list(tree.paths())
  raise UserError(f"unknown key config.{key}{_near(key, known, 'config.')}")


def _is_known(holder: _Node, name: str) -> bool:
  return name in holder.children and _is_open(holder.children[name])


def _near(key: str, known: list[str], prefix: str = "") -> str:
  """Says which of the known keys the user may have meant."""
  matches = difflib.get_close_matches(key, known, n=3, cutoff=0.7)
  last = key.rsplit(".", 1)[-1]
  ends: dict[str, list[str]] = {}
  for option in known:
    ends.setdefault(option.rsplit(".", 1)[-1], []).append(option)
  for end in difflib.get_close_matches(last, ends, n=2, cutoff=0.7):
    matches.extend(o for o in ends[end] if o not in matches)
  if not matches:
    parent = key.rpartition(".")[0]
    inside = [k for k in known if k.rpartition(".")[0] == parent]
    if not inside:
      inside = [k for k in known if "." not in k]
    return "; there are " + ", ".join(prefix + k for k in inside)
  return "; did you mean " + " or ".join(prefix + m for m in matches[:4]) + "?"


def _parse(holder: _Node, name: str, text: str, key: str) -> Any:
  """The value of a text, of the type of what stands there now."""
  old, hint = holder.children.get(name), holder.hint_of(name)
  if text in _NONE and (
    type(None) in typing.get_args(hint)
    or (old is None and name in holder.children)
  ):
    return None
  if isinstance(old, _Node) and not isinstance(old.old, tuple | list):
    if not typed.allows(hint, str):
      keys = ", ".join(f"{key}.{k}" for k in old.children)
      raise _wrong(key, text, f"it has keys of its own, {keys}")
    old = ""
  if serialize.dtype_name(old) or (old is None and key.endswith("dtype")):
    try:
      return serialize.dtype_from_name(text)
    except UserError as error:
      raise UserError(f"{key}: {error}") from error
  kind = typed.kind_of(old, hint)
  if isinstance(old, _Node):
    kind = tuple
  if kind is str and "," in text and typed.allows(hint, tuple):
    kind = tuple
  if kind is tuple:
    return _opened(_tuple(old, hint, text, key), hint)
  return _scalar(kind, text, key)


def _scalar(kind: type, text: str, key: str) -> Any:
  """A text as a bool, a number, a string, or by its own looks."""
  if kind is str:
    return text
  if kind is object:
    try:
      return _opened(ast.literal_eval(text), Any)
    # Literals of Python, on which its parser fails in many ways.
    except Exception:
      return text
  if kind is bool and text.lower() in (*_TRUE, *_FALSE):
    return text.lower() in _TRUE
  try:
    if kind is not bool:
      return kind(text)
  except ValueError:
    pass
  raise _wrong(key, text, f"the value must be {kind.__name__}")


def _tuple(old: Any, hint: Any, text: str, key: str) -> tuple:
  """A tuple of Python, or texts between commas."""
  try:
    new = ast.literal_eval(text)
    new = tuple(new) if isinstance(new, tuple | list) else (new,)
  except Exception as error:
    if text.startswith(("(", "[")):
      reason = f"{type(error).__name__}: {one_line(error)}"
      raise UserError(f"the overrides cannot be read: {reason}") from error
    new = tuple(part.strip() for part in text.split(","))
  entry = typed.hint_of_entry(hint, 0)
  if entry is Any and isinstance(old, tuple) and old:
    entry = type(old[0])
  if not all(typed.fits(value, entry) for value in new):
    kind = getattr(entry, "__name__", str(entry))
    raise UserError(f"{key} is {shown(new)}, but must be a tuple of {kind}")
  return new


def _wrong(key: str, text: str, why: str) -> UserError:
  return UserError(f"{one_line(f'{key}={text}', 200)} is wrong: {why}")
