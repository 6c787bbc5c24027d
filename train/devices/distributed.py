"""Starts and ends a run of several processes, usually one per host.

`--distributed` connects the processes through JAX's coordination service, which
runs in process 0. If JAX knows the launcher (Cloud TPU, Slurm, Open MPI,
Kubernetes), it reads the address, the number of processes and the process's
number from the environment; otherwise three flags give them.
"""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import jax

from train import flags
from train.command import explain, warn
from train.errors import RunError, UserError, one_line

_RESUME = "the same command resumes from the last complete checkpoint"
# Seconds that a finished process waits for the others.
_SHUTDOWN_TIMEOUT = 30
# JAX stores process numbers in int32, and timeouts in int64 nanoseconds.
_MOST = 2**31 - 1
_LONGEST = 10**9


@dataclasses.dataclass(frozen=True)
class Processes:
  """The flags of a run of several processes.

  Attributes:
    distributed: Whether this process is one of several.
    coordinator_address: HOST:PORT: the host of process 0 and a free port there;
      None if JAX knows the launcher.
    num_processes: How many processes there are; None if JAX knows the
      launcher.
    process_id: The number of this process, from 0; None if JAX knows the
      launcher.
    initialization_timeout: Seconds to wait for the other processes.
    heartbeat_timeout_seconds: Seconds without a heartbeat after which a process
      counts as lost.
  """

  distributed: bool = False
  coordinator_address: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  initialization_timeout: int = 300
  heartbeat_timeout_seconds: int = 60


def parse(argv: Sequence[str]) -> tuple[Processes | None, list[str]]:
  """Parses the flags of a run of several processes.

  Args:
    argv: The arguments, without the program's name.

  Returns:
    The options for `process_group` (None without `--distributed`), and the
    other arguments.

  Raises:
    UserError: A value is wrong, or a flag is missing.
  """
  options, rest = flags.take(Processes(), argv)
  if not options.distributed:
    for field in dataclasses.fields(options):
      if getattr(options, field.name) != field.default:
        raise UserError(f"{_flag(field.name)} needs --distributed")
    return None, rest
  three = ("coordinator_address", "num_processes", "process_id")
  missing = [_flag(x) for x in three if getattr(options, x) is None]
  if len(missing) in (1, 2):
    raise UserError(
      f"{' and '.join(missing)} must be given too: all three of"
      " --coordinator-address, --num-processes and --process-id, or none"
    )
  if not missing:
    _check(options)
  for name in ("initialization_timeout", "heartbeat_timeout_seconds"):
    flags.in_range(_flag(name), getattr(options, name), 1, _LONGEST)
  return options, rest


def _flag(name: str) -> str:
  return "--" + name.replace("_", "-")


def _check(options: Processes) -> None:
  host, _, port = str(options.coordinator_address).rpartition(":")
  is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16
  if not host or not is_port:
    raise UserError(
      f"--coordinator-address is {options.coordinator_address!r}, but must be"
      " HOST:PORT, the host of process 0 and a free port on it"
    )
  flags.in_range("--num-processes", options.num_processes, 1, _MOST)
  last = (options.num_processes or 1) - 1
  flags.in_range("--process-id", options.process_id, 0, last)


class _LastWords:
  """Prints why this process ended, if the process cannot print it.

  If another process is lost, JAX's coordination service ends this process from
  C++ with a stack trace, and a process cannot react to SIGKILL. So a shell
  reads lines from a pipe and, when the pipe closes, prints the last one.
  """

  def __init__(self) -> None:
    script = (
      'while IFS= read -r line; do last=$line; done; [ -z "$last" ] ||'
      ' printf "%s\\n" "$last" >&2'
    )
    # Its own session, so that Ctrl-C does not end the shell.
    self._shell = subprocess.Popen(
      ["/bin/sh", "-c", script],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      start_new_session=True,
      text=True,
    )

  def set(self, line: str) -> None:
    """Sets the line to print; "" prints nothing."""
    assert self._shell.stdin is not None
    self._shell.stdin.write(line + "\n")
    self._shell.stdin.flush()

  def close(self) -> None:
    """Ends the shell without output; this process reports its own errors."""
    self.set("")
    assert self._shell.stdin is not None
    self._shell.stdin.close()
    self._shell.wait()


def _connect(options: Processes) -> None:
  """Joins the other processes.

  Raises:
    UserError: JAX does not know the launcher of this process, or the settings
      of the launcher or of the flags are wrong.
  """
  # `train.devices.signals` handles signals instead, so that a second signal
  # still ends a process that hangs.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      options.coordinator_address,
      options.num_processes,
      options.process_id,
      initialization_timeout=options.initialization_timeout,
      heartbeat_timeout_seconds=options.heartbeat_timeout_seconds,
      shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
    )
  except (ValueError, TypeError, OverflowError, RuntimeError) as error:
    if options.coordinator_address is None and "defined" in str(error):
      raise UserError(
        "--distributed: JAX knows no launcher of this job (Cloud TPU, Slurm,"
        " Open MPI, Kubernetes); give --coordinator-address HOST:PORT,"
        " --num-processes N and --process-id I to every process"
      ) from error
    raise UserError(f"--distributed: {one_line(error)}") from error


@contextlib.contextmanager
def process_group(options: Processes | None) -> Iterator[None]:
  """Connects this process to the others for the duration of the context.

  Enter it before JAX is used. If another process is lost, this process ends: at
  once if a collective fails, otherwise after `--heartbeat-timeout-seconds`
  without a heartbeat. An error inside the context is printed with the number of
  the process, and ends the process.

  Args:
    options: The options from `parse`; None does nothing.

  Raises:
    UserError: The processes cannot be connected.
  """
  if options is None:
    yield
    return
  last_words = _LastWords()
  where = options.coordinator_address or "the address that the launcher gives"
  last_words.set(
    f"error: the processes did not all connect to {where} within"
    f" {options.initialization_timeout} seconds; start all of them, with the"
    " same address and a free port, and check that each host can reach it"
  )
  try:
    _connect(options)
  except BaseException:
    last_words.close()
    raise
  name = f"process {jax.process_index()} of {jax.process_count()}"
  last_words.set(
    f"error: {name}: another process was lost, or this one was killed;"
    f" {_RESUME}"
  )
  try:
    yield
  except Exception as error:
    last_words.close()
    _leave(error, name)
  last_words.close()
  jax.distributed.shutdown()


def _is_lost_connection(error: Exception) -> bool:
  """Whether a collective or a barrier failed because a process was lost."""
  signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
  found = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)
  return found and any(x in f"{error} {error.__cause__}" for x in signs)


def _leave(error: Exception, name: str) -> NoReturn:
  """Prints the reason and ends this process.

  Does not wait for threads, since some may wait for other processes.
  """
  lost = _is_lost_connection(error)
  if lost:
    line = f"another process was lost ({one_line(error)[:150]}); {_RESUME}"
    code = RunError.exit_code
  else:
    line, code = explain(error)
  warn(f"error: {name}: {line}")
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  try:
    # If all processes met the same error, they shut down together.
    if not lost:
      jax.distributed.shutdown()
  finally:
    os._exit(code)
