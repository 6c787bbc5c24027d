"""The trainer: `python -m train configs/NAME.py`, or `train.run`."""

import os
import sys

if sys.argv[:1] == ["-m"]:
  # A command such as `python -m train.generate` starts here. Python looks in
  # the current directory before its own library, so a config called `json.py`
  # would be imported for `json`, and so would a file that somebody else put
  # there. From here on the standard library goes first.
  _library = os.path.dirname(os.__file__)
  _own = (_library, os.path.join(_library, "lib-dynload"))
  sys.path.sort(key=lambda folder: folder not in _own)

import glob
import importlib
import logging
from types import TracebackType
from typing import Any


def _one_line(
  kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
  """Prints an error that ends a command before it has begun."""
  text = " ".join(str(error).split())
  if issubclass(kind, KeyboardInterrupt):
    text = "interrupted"
  elif not issubclass(kind, ValueError):
    text = f"{kind.__name__}: {text}"
  print(f"error: {text}", file=sys.stderr)


# Modules that are imported before the command starts may fail on what the user
# has set, such as JAX on JAX_NUM_CPU_DEVICES=abc.
if sys.argv[:1] == ["-m"]:
  sys.excepthook = _one_line

# Where the home directory cannot be written, matplotlib says so on import.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

# Where libtpu is installed for compiling ahead of time and there is no chip,
# JAX looks for one all the same, prints what it lacks and may wait for it.
if not any(map(glob.glob, ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*"))):
  os.environ.setdefault("JAX_PLATFORMS", "cpu")

__all__ = ["Run", "load", "run"]


def __getattr__(name: str) -> Any:
  """Imports `train.api`, and JAX, when one of its names is first used."""
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module("train.api"), name)
