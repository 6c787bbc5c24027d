"""From the text of a flag to the value of a field."""

import ast
import typing
from typing import Any

from train.errors import UserError, one_line, shown
from train.flags import annotations, kinds

SCALARS = (bool, int, float, str)
# The value of an option that is not set yet.
NEW = object()
_NONE = ("none", "None", "null")
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def kind_of(value: Any, hint: Any) -> type:
  """The type of a field's next value: that of this one, or as annotated.

  Args:
    value: The value of the field now.
    hint: Its annotation.

  Returns:
    bool, int, float, str or tuple; object if the value can be anything.
  """
  options = annotations.options(hint)
  declared = options[0] if len(options) == 1 else object
  declared = typing.get_origin(declared) or declared
  if value is None or value is NEW:
    return declared if declared in (*SCALARS, tuple) else object
  # An integer in a config file may stand for a float.
  if type(value) is int and declared is float:
    return float
  if isinstance(value, tuple | list):
    return tuple
  return type(value) if isinstance(value, SCALARS) else object


def is_settable(value: Any) -> bool:
  """Whether flags can set a value: functions, arrays etc. they cannot."""
  known = (*SCALARS, tuple, list, type(None))
  is_dtype = kinds.dtype_name(value) is not None
  return value is NEW or isinstance(value, known) or is_dtype


def is_dtype(value: Any, flag: str) -> bool:
  """Whether the value of a flag is a dtype."""
  if value is None:
    return flag.endswith("dtype")
  return kinds.dtype_name(value) is not None


def parse(value: Any, hint: Any, flag: str, texts: list[str]) -> Any:
  """Returns the value that the words after a flag stand for.

  Args:
    value: The value of the field now.
    hint: Its annotation.
    flag: The flag, for errors.
    texts: The words: one, or several for a tuple.

  Raises:
    UserError: The words are not of the field's type; names the flag.
  """
  if not texts:
    raise UserError(f"{flag} needs a value")
  is_optional = value is None or type(None) in typing.get_args(hint)
  if is_optional and len(texts) == 1 and texts[0] in _NONE:
    return None
  if is_dtype(value, flag):
    try:
      return kinds.dtype_from_name(texts[0])
    except UserError as error:
      raise UserError(f"{flag}: {error}") from error
  kind = kind_of(value, hint)
  if kind in (str, object) and annotations.allows(hint, tuple):
    kind = tuple if len(texts) > 1 or "," in texts[0] else str
  if kind is tuple:
    return _tuple(value, hint, flag, texts)
  return _scalar(kind, flag, texts[0])


def _scalar(kind: type, flag: str, text: str) -> Any:
  """A text as a bool, a number or a string; `object` lets the text decide."""
  if kind is str:
    return text
  if kind is object:
    return _literal(text)
  if kind is bool and text.lower() in (*_TRUE, *_FALSE):
    return text.lower() in _TRUE
  try:
    if kind is not bool:
      return kind(text)
  except ValueError:
    pass
  given = one_line(f"{flag}={text}", 200)
  raise UserError(f"{given} is wrong: the value must be {kind.__name__}")


def _literal(text: str) -> Any:
  """A literal of Python, or the text itself."""
  try:
    return ast.literal_eval(text)
  # Python's parser fails in many ways.
  except Exception:
    return text


def _tuple(value: Any, hint: Any, flag: str, texts: list[str]) -> tuple:
  """A tuple of words, or one word: a tuple of Python, or with commas."""
  entry = annotations.of_entry(hint)
  if entry is Any and isinstance(value, tuple) and value:
    entry = type(value[0])
  if len(texts) > 1:
    new = tuple(_entry(text, entry) for text in texts)
  else:
    found = _literal(texts[0])
    if isinstance(found, tuple | list):
      new = tuple(found)
    elif not isinstance(found, str) or texts[0][:1] in ("'", '"'):
      new = (found,)
    elif texts[0].startswith(("(", "[")):
      given = one_line(f"{flag}={texts[0]}", 200)
      raise UserError(f"{given} cannot be read: it is no tuple of Python")
    else:
      new = tuple(part.strip() for part in texts[0].split(","))
  if not all(annotations.fits(part, entry) for part in new):
    kind = getattr(entry, "__name__", str(entry))
    raise UserError(f"{flag} is {shown(new)}, but must be a tuple of {kind}")
  return new


def _entry(text: str, entry: Any) -> Any:
  is_text = annotations.allows(entry, str) and not text.startswith(("(", "["))
  return text if is_text else _literal(text)


def show(value: Any) -> list[str]:
  """The words that help shows for a value."""
  name = kinds.dtype_name(value)
  if name is not None:
    return [name]
  if kinds.is_config(value):
    return [f"{type(value).__name__}(...)"]
  if isinstance(value, tuple | list):
    return [word for entry in value for word in show(entry)]
  text = str(value)
  text = text if text.isprintable() else repr(text)[1:-1]
  return [text if len(text) <= 80 else text[:77] + "..."]
