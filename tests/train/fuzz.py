"""Random inputs of the fuzz tests: command words, damage, signals."""

import os
import shutil
import signal
import sys

from train import __main__ as command
from train.command import main_with_errors

SIGNALS = (
  (signal.SIGKILL,),
  (signal.SIGKILL,),
  (signal.SIGTERM,),
  (signal.SIGINT,),
  (signal.SIGINT, signal.SIGINT),
  (signal.SIGTERM, signal.SIGKILL),
)

_WORDS = (
  "",
  "none",
  "True",
  "abc",
  "²",
  "1e",
  "--",
  "=",
  "[1]",
  "\udcff",
  "0x",
)
_COUNTS = ("1", "2", "3", "-1", "0", "1.5", f"{2**31}", f"{2**63}", "9" * 400)
_REALS = ("0.1", "1e-3", "1", "0", "-1", "nan", "inf", "-inf", "1e39", "1e400")
_FLAGS = ("True", "False", "true", "0", "no", "2")
_NAMES = ("jit", "pmap", "loss", "accuracy", "float32", "bfloat16", "float64")

# What a key is given: values that some key accepts, and words that none does.
_KEYS = {
  "batch_size": ("8", "16", "3", "-8", "0", f"{2**40}", "9" * 400),
  "accumulation": _COUNTS,
  "seed": (*_COUNTS, "7", f"{2**32}"),
  "log_every": _COUNTS,
  "eval_every": _COUNTS,
  "eval_batches": (*_COUNTS, "none"),
  "checkpoint_every": _COUNTS,
  "keep": _COUNTS,
  "best_metric": _NAMES,
  "strategy": _NAMES,
  "debug": _FLAGS,
  "mesh.data": _COUNTS,
  "mesh.fsdp": _COUNTS,
  "mesh.sequence": _COUNTS,
  "optimizer.learning_rate": _REALS,
  "optimizer.weight_decay": _REALS,
  "optimizer.epsilon": _REALS,
  "optimizer.b1": _REALS,
  "optimizer.b2": _REALS,
  "optimizer.schedule.floor": _REALS,
  "optimizer.clip": (*_REALS, "none"),
  "optimizer.warmup_steps": _COUNTS,
  "optimizer.schedule.end_step": (*_COUNTS, "none"),
  "model.width": ("8", "16", "0", "-8", f"{2**40}"),
  "model.vocab_size": ("258", "257", "9", f"{2**40}"),
  "model.dropout": ("0.0", "0.5"),
  "model.dtype": _NAMES,
  "model.param_dtype": _NAMES,
  "data.length": ("12", "2", "1", "0", "-3"),
  "data.infinite": ("none", "3"),
  "sample.length": ("0", "3", "-1"),
  "sample.temperature": _REALS,
  "sample.top_k": (*_COUNTS, "none"),
  "sample.top_p": (*_REALS, "none"),
  "sample.prompt": ("a", "", "é", "\udcff"),
}


def config_words(draw):
  """Draws one to three overrides of the tiny config; many are wrong."""
  words = []
  for _ in range(draw.choice((1, 1, 2, 3))):
    key = draw.choice(list(_KEYS))
    value = draw.choice(_KEYS[key] if draw.random() < 0.85 else _WORDS)
    if draw.random() < 0.05:
      key = key.replace(draw.choice(key), draw.choice("xé."), 1)
    words.append(f"--{key}={value}")
  return words


def _paths(folder):
  """Returns the relative paths of all files and folders in a folder.

  Links are left out: they are damage already, and damage to what they point at
  would be damage outside the folder.
  """
  found = [
    os.path.join(parent, name)
    for parent, folders, names in os.walk(folder)
    for name in [*folders, *names]
  ]
  return sorted(
    os.path.relpath(path, folder) for path in found if not os.path.islink(path)
  )


def damage(workdir, outside, draw):
  """Damages one thing in a run directory; returns its name and what was done.

  Args:
    workdir: The run.
    outside: A folder for links to point at.
    draw: Random generator.
  """
  name = draw.choice(_paths(workdir))
  path = os.path.join(workdir, name)
  is_folder = os.path.isdir(path) and not os.path.islink(path)
  how = draw.choice(_FOLDER if is_folder else _FILE)
  how(path, outside, draw)
  return name, how.__name__


def _remove(path, outside, draw):
  shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def _truncate(path, outside, draw):
  os.truncate(path, draw.randint(0, os.path.getsize(path)))


def _flip(path, outside, draw):
  with open(path, "r+b") as file:
    content = bytearray(file.read())
    for _ in range(min(len(content), draw.choice((1, 1, 20)))):
      content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.seek(0)
    file.write(content)


def _append(path, outside, draw):
  with open(path, "ab") as file:
    file.write(draw.randbytes(draw.randint(1, 200)))


def _replace(path, outside, draw):
  with open(path, "wb") as file:
    file.write(draw.choice((b"", b"{}", b"[]", b"null", b"\xff\xfe", b"1e999")))


def _to_folder(path, outside, draw):
  _remove(path, outside, draw)
  os.mkdir(path)


def _to_file(path, outside, draw):
  _remove(path, outside, draw)
  with open(path, "w") as file:
    file.write("not a folder")


def _to_link(path, outside, draw):
  was_folder = os.path.isdir(path)
  _remove(path, outside, draw)
  os.symlink(outside if was_folder else os.path.join(outside, "file"), path)


def _to_dangling_link(path, outside, draw):
  _remove(path, outside, draw)
  os.symlink(os.path.join(outside, "nothing"), path)


def _add(path, outside, draw):
  name = draw.choice(("²", "x", "99", "007", "-1", "12.5", "é", "a b", "[1]"))
  new = os.path.join(path, name)
  if not os.path.lexists(new):
    os.mkdir(new)


_FOLDER = (_remove, _to_file, _to_link, _to_dangling_link, _add)
_FILE = (
  _remove,
  _truncate,
  _flip,
  _append,
  _replace,
  _to_folder,
  _to_link,
  _to_dangling_link,
)


def train(workdir, log):
  """Trains the tiny config in this process; appends its output to a file."""
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(file, 1)
  os.dup2(file, 2)
  words = ("tests/train/tiny.py", f"--workdir={workdir}")
  sys.exit(main_with_errors(command._run, words))
