"""A lock that allows one writer per run directory.

The lock is `flock` on the file `.lock` in the directory. The kernel releases it
when the process ends for any reason. The file contains the process number and
the host, for the error message of a second run.

On a file system without `flock` (some network mounts), the content of the file
is the lock. A process of this host holds the lock while it is alive. A process
of another host holds it until that process empties the file, which it does
unless it crashes; the error message then names the file to remove. Two
processes that start at the same instant can both pass this weaker test.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterator

from train.devices import processes
from train.errors import UserError, is_disk_full
from train.files.write import refuse_link

FILE_NAME = ".lock"
_WITHOUT_FLOCK = (
  errno.ENOLCK,
  errno.ENOSYS,
  errno.EOPNOTSUPP,
  errno.EINVAL,
)


@contextlib.contextmanager
def held(workdir: str) -> Iterator[None]:
  """Holds the lock of a run directory; process 0 holds it for all processes.

  Args:
    workdir: The directory, which must exist.

  Raises:
    UserError: Another run holds the lock, or the directory is not writable.
  """
  descriptors: list[int] = []
  processes.on_process_zero(lambda: descriptors.append(_acquire(workdir)))
  try:
    yield
  finally:
    for descriptor in descriptors:
      with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
      os.close(descriptor)


def _acquire(workdir: str) -> int:
  """Returns the descriptor that holds the lock until it is closed."""
  path = os.path.join(workdir, FILE_NAME)
  refuse_link(path)
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
  try:
    descriptor = os.open(path, flags, 0o666)
  except OSError as error:
    if is_disk_full(error):
      raise
    reason = error.strerror or str(error)
    raise UserError(f"cannot write to --workdir={workdir}: {reason}") from error
  try:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
      raise UserError(
        f"{path} is not a regular file, or has a second name: remove it"
      )
    _take(descriptor, workdir)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
  except BaseException:
    os.close(descriptor)
    raise
  return descriptor


def _take(descriptor: int, workdir: str) -> None:
  """Locks an open file, or raises a UserError that names the owner."""
  hint = ""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return
  except OSError as error:
    # Local and network file systems report a held lock by different errors.
    taken = error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    if not taken and error.errno not in _WITHOUT_FLOCK:
      raise
  owner = _owner(descriptor)
  if not taken:
    if owner is None or not _may_live(*owner):
      return
    path = os.path.join(workdir, FILE_NAME)
    hint = f" (if that process has ended, remove {path})"
  who = "another process"
  if owner is not None:
    who = f"process {owner[0]} on host {owner[1]}"
  raise UserError(
    f"{who} is writing to {workdir}: wait until it ends, stop it, or give"
    f" another --workdir{hint}"
  )


def _owner(descriptor: int) -> tuple[int, str] | None:
  """Returns the process and host in the file; None if it has none."""
  text = os.pread(descriptor, 400, 0).decode(errors="replace")
  found = re.fullmatch(r"(\d{1,9}) ([\w.-]{1,255})\n", text, re.ASCII)
  return (int(found[1]), found[2]) if found else None


def _may_live(process: int, host: str) -> bool:
  """Whether a process may still be running; true for other hosts."""
  if host != socket.gethostname():
    return True
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  # In a container, a new run often gets the process number of the run before.
  return process != os.getpid()
