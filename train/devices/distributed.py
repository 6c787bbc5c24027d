"""Starts and ends a run of several processes, usually one per host.

`--distributed` connects the processes through JAX's coordination service, which
runs in process 0. If JAX knows the launcher (Cloud TPU, Slurm, Open MPI,
Kubernetes), it reads the address, the number of processes and the process's
number from the environment; otherwise three flags give them.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import jax

from train.command import Parser, explain, warn
from train.errors import RunError, UserError, one_line

_RESUME = "the same command resumes from the last complete checkpoint"
# Seconds that a finished process waits for the others.
_SHUTDOWN_TIMEOUT = 30
# JAX stores process numbers in int32, and timeouts in int64 nanoseconds.
_MOST = 2**31 - 1
_LONGEST = 10**9


def parse(
  argv: Sequence[str],
) -> tuple[argparse.Namespace | None, list[str]]:
  """Parses the flags of a run of several processes.

  Args:
    argv: The arguments, without the program's name.

  Returns:
    The options for `process_group` (None without `--distributed`), and the
    other arguments.

  Raises:
    UserError: A value is wrong, or a flag is missing.
  """
  parser = Parser("train", add_help=False, allow_abbrev=False)
  parser.add_argument("--distributed", action="store_true")
  parser.add_argument("--coordinator_address")
  parser.add_argument("--num_processes", type=int)
  parser.add_argument("--process_id", type=int)
  parser.add_argument("--initialization_timeout", type=int, default=300)
  parser.add_argument("--heartbeat_timeout_seconds", type=int, default=60)
  defaults = parser.parse_args([])
  options, rest = parser.parse_known_args(argv)
  if not options.distributed:
    if options != defaults:
      changed = next(
        name
        for name, value in vars(options).items()
        if value != getattr(defaults, name)
      )
      raise UserError(f"--{changed} needs --distributed")
    return None, rest
  three = ("coordinator_address", "num_processes", "process_id")
  missing = [f"--{x}" for x in three if getattr(options, x) is None]
  if len(missing) in (1, 2):
    raise UserError(
      f"{' and '.join(missing)} must be given too: all three of"
      " --coordinator_address, --num_processes and --process_id, or none"
    )
  if not missing:
    _check(options)
  for name in ("initialization_timeout", "heartbeat_timeout_seconds"):
    seconds = getattr(options, name)
    if seconds < 1:
      raise UserError(f"--{name} is {seconds}, but must be positive")
    if seconds > _LONGEST:
      raise UserError(f"--{name} is {seconds}, but must be at most {_LONGEST}")
  return options, rest


def _check(options: argparse.Namespace) -> None:
  host, _, port = options.coordinator_address.rpartition(":")
  is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16
  if not host or not is_port:
    raise UserError(
      f"--coordinator_address is {options.coordinator_address!r}, but must be"
      " HOST:PORT, the host of process 0 and a free port on it"
    )
  if not 1 <= options.num_processes <= _MOST:
    raise UserError(
      f"--num_processes is {options.num_processes}, but must be positive and"
      f" at most {_MOST}"
    )
  if not 0 <= options.process_id < options.num_processes:
    raise UserError(
      f"--process_id is {options.process_id}, but must be at least 0 and below"
      f" --num_processes={options.num_processes}"
    )


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


def _connect(options: argparse.Namespace) -> None:
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
        " Open MPI, Kubernetes); give --coordinator_address=HOST:PORT,"
        " --num_processes=N and --process_id=I to every process"
      ) from error
    raise UserError(f"--distributed: {one_line(error)}") from error


@contextlib.contextmanager
def process_group(options: argparse.Namespace | None) -> Iterator[None]:
  """Connects this process to the others for the duration of the context.

  Enter it before JAX is used. If another process is lost, this process ends: at
  once if a collective fails, otherwise after `--heartbeat_timeout_seconds`
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
