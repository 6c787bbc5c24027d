"""The cache of compiled programs, so that a second start compiles nothing.

JAX loads what the cache holds as machine code and runs it. So the folder
belongs to one user, and nobody else may write to it. XLA compiles for the
instructions of the CPU, so machines that share a home directory but have
different CPUs use different folders.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import stat
import warnings
from typing import Any

import jax

# Bytes that the folder may hold at the start of a command.
_LARGEST = 2**30


def use_cache(largest: int = _LARGEST) -> None:
  """Makes JAX keep all compiled programs in the user's cache folder.

  The folder is `jaxmodels/xla/` in `XDG_CACHE_HOME` or `~/.cache`. If it cannot
  be used, JAX compiles as it would without it.

  The user's own settings win: JAX_COMPILATION_CACHE_DIR names another folder,
  and JAX_ENABLE_COMPILATION_CACHE=false switches the cache off. A run of
  several processes uses only a folder that the user names, since all of its
  processes must see the same programs.

  Args:
    largest: Bytes above which the programs that were not used for the longest
      time are removed.
  """
  settings: Any = jax.config
  given = settings.jax_compilation_cache_dir
  if given is not None or not settings.jax_enable_compilation_cache:
    return
  if jax.process_count() > 1:
    return
  try:
    folder = _folder()
    _remove_oldest(folder, largest)
  # `Path.home` raises a RuntimeError for a user without a home.
  except (OSError, RuntimeError):
    return
  # If the disk is full or a program is damaged, JAX compiles it: the user need
  # not know.
  warnings.filterwarnings(
    "ignore", "Error (reading|writing) persistent compilation cache entry"
  )
  jax.config.update("jax_compilation_cache_dir", str(folder))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _folder() -> pathlib.Path:
  """Returns the folder of this user and this CPU; makes it if it is missing.

  Raises:
    OSError: It cannot be made or written, or others may write to it.
    RuntimeError: The user has no home directory.
  """
  base = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
  if not base.is_absolute():
    base = pathlib.Path.home() / ".cache"
  base.mkdir(mode=0o700, parents=True, exist_ok=True)
  folder = base
  for name in ("jaxmodels", "xla", _cpu()):
    folder = folder / name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid != os.getuid() or shared:
      raise PermissionError(f"others may write to {folder}")
  if not os.access(folder, os.W_OK | os.X_OK):
    raise PermissionError(f"{folder} cannot be written")
  return folder


def _cpu() -> str:
  """Returns a name for the instructions that this CPU knows."""
  known = platform.machine() + platform.processor()
  # Linux only; "flags" on x86, "Features" on ARM.
  with contextlib.suppress(OSError):
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = ("model name", "flags", "Features", "CPU part")
    known += "".join(sorted({x for x in lines if x.startswith(names)}))
  return hashlib.sha256(known.encode()).hexdigest()[:16]


def _remove_oldest(folder: pathlib.Path, largest: int) -> None:
  """Removes the oldest files until half of `largest` bytes are left."""
  files = []
  with os.scandir(folder) as entries:
    for entry in entries:
      # Another process may remove files at the same time.
      with contextlib.suppress(FileNotFoundError):
        if entry.is_file(follow_symlinks=False):
          files.append((entry.stat(follow_symlinks=False), entry.path))
  size = sum(found.st_size for found, _ in files)
  if size <= largest:
    return
  # The file system may update the time of the last access late, or never.
  files.sort(key=lambda x: max(x[0].st_atime, x[0].st_mtime))
  for found, path in files:
    if size <= largest // 2:
      break
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
    size -= found.st_size
