"""Every command's flags, read and listed by tyro: `--model.mixers.0.heads 4`.

`train.flags.fields` makes flags of the fields of dataclasses. `tyro` matches
the words with the flags and writes `--help`; `train.flags.words` parses the
values. A mistake ends in one line that names the flag and those like it.
"""

import contextlib
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro
from tyro import constructors

from train.errors import UserError, one_line, shown
from train.flags import words
from train.flags.fields import INNER, Flag, Group, Repeated, Several, plain
from train.streams import log

__all__ = ["Repeated", "in_range", "only", "parse", "refuse", "take"]


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
  values = Several(defaults)
  if any(word in ("-h", "--help") for word in argv):
    _print_help(Group("", values), usage, about)
  # What replaces a tuple of layers comes first: its entries have other flags.
  values, rest = _read(Group("", values), argv, whole=True)
  root = Group("", values)
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
  root = Group("", Several((default,)))
  values, rest = _read(root, argv, whole=False, only_known=True)
  return values[0], rest


def _read(
  root: Group,
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
    Group,
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
    if not isinstance(group, Group):
      return None
    fields = []
    for name, child in group.children.items():
      is_group = isinstance(child, Group)
      if child.is_flag if isinstance(child, Group) else not whole:
        fields.append(child.field(name))
      if is_group:
        kind: Any = Annotated[Group, tyro.conf.arg(name=name)]
        fields.append(
          constructors.StructFieldSpec(name + INNER, kind, child, child.doc)
        )
    return constructors.StructConstructorSpec(group.built, tuple(fields))

  return registry


def _joined(root: Group, argv: Sequence[str], *, is_open: bool) -> list[str]:
  """The words with each single value joined to its flag by "="."""
  joined, left = [], list(argv)
  while left:
    word = left.pop(0)
    flag, is_off = _flag_of(root, word, is_open)
    if flag is None:
      joined.append(word)
    elif is_off:
      joined.append(f"{flag.word}=False")
    else:
      joined.append(_with_value(flag, word, left))
  return joined


def _flag_of(root: Group, word: str, is_open: bool) -> tuple[Flag | None, bool]:
  """The flag whose value follows a word, and if the word is `--no-FLAG`."""
  if not word.startswith("--"):
    return None, False
  name, equals, _ = word[2:].partition("=")
  flag = _find(root, name, is_open)
  if equals or (isinstance(flag, Group) and not flag.is_flag):
    return None, False
  front, dot, last = name.rpartition(".")
  if flag is None and last.startswith(("no-", "no_")):
    flag = _find(root, front + dot + last[3:], is_open=False)
    if flag is not None and flag.kind is bool:
      return flag, True
    return None, False
  return flag, False


def _with_value(flag: Flag, word: str, left: list[str]) -> str:
  """The word with its value, which is taken from the words that are left."""
  has_value = bool(left) and not left[0].startswith("--")
  if not has_value:
    if flag.kind is bool:
      return word + "=True"
    raise UserError(f"{flag.word} needs a value")
  return word if flag.takes_many else f"{word}={left.pop(0)}"


def _find(root: Group, key: str, is_open: bool) -> Flag | None:
  """The flag of a key; in a mapping of options, a key may be new."""
  group, names = root, key.split(".")
  for i, name in enumerate(names):
    found = group.child(name)
    if found is None and is_open and isinstance(group.value, Mapping):
      found = _added(group, plain(name), key, is_last=i == len(names) - 1)
    if found is None or i == len(names) - 1:
      return found
    if not isinstance(found, Group):
      return None
    group = found
  return None


def _added(group: Group, name: str, key: str, *, is_last: bool) -> Flag:
  """A new option, which the module checks that takes it."""
  # An option must not hide a method of the mapping.
  if hasattr(dict, name) or not re.fullmatch(r"[\w-]+(\.[\w-]+){1,9}", key):
    shown_key = one_line(f"--{key}", 200)
    raise UserError(f"{shown_key} cannot be the name of an option")
  path = f"{group.path}.{name}"
  made = Flag(path, words.NEW) if is_last else Group(path, {})
  group.children[name] = made
  return made


def _unknown(word: str, root: Group) -> str:
  """Says that a flag is unknown, and which ones the user may have meant."""
  shown_word = one_line(word, 200)
  key = plain(word.lstrip("-")).removeprefix("config.")
  found = _find(root, key, False)
  if isinstance(found, Group) and key:
    inner = ", ".join(flag.word for flag in found.children.values())
    return f"unknown flag {shown_word}: it has flags of its own, {inner}"
  return f"unknown flag {shown_word}{_near(key, root)}"


def _near(key: str, root: Group) -> str:
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


def _print_help(root: Group, usage: str, about: str) -> None:
  """Prints all flags with their documentation as plain text, and ends."""
  text = io.StringIO()
  # A stream that is no terminal gets neither colours nor frames.
  with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
    tyro.cli(
      Group,
      prog="",
      description="",
      default=root,
      args=["-h"],
      registry=_registry(whole=False),
    )
  _, *lines = (line.rstrip() for line in text.getvalue().splitlines())
  log("\n".join((f"usage: {usage}", "", about.strip(), *lines)))
  raise SystemExit(0)
