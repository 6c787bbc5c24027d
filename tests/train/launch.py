"""Starts the processes of a run on this machine, and waits until all end."""

import contextlib
import os
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
DEVICES = 2  # a process


def free_port():
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def flags(index, count, port):
  return (
    f"--coordinator_address=127.0.0.1:{port}",
    f"--num_processes={count}",
    f"--process_id={index}",
  )


def start(*words, env=None):
  optimize = "--xla_backend_optimization_level=0"
  count = f"--xla_force_host_platform_device_count={DEVICES}"
  return subprocess.Popen(
    [sys.executable, "-m", *words],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": f"{count} {optimize}", **(env or {})},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@contextlib.contextmanager
def started(workdir, *words, module="train", count=2, config="tiny", own=()):
  """Starts the processes of a run; `own` holds the words of each process."""
  port = free_port()
  common = (
    module,
    f"tests/train/{config}.py",
    f"--workdir={workdir}",
    "--distributed",
  )
  found = []
  try:
    for index in range(count):
      mine = own[index] if own else ()
      found.append(start(*common, *flags(index, count, port), *words, *mine))
    yield found
  finally:
    for process in found:
      # A stopped process reacts only to SIGKILL.
      process.kill()
      process.communicate()


def ended(processes, timeout=120):
  """Waits for processes; returns exit code, output and errors of each."""
  until = time.monotonic() + timeout
  texts = [
    p.communicate(timeout=max(until - time.monotonic(), 0.1)) for p in processes
  ]
  return [(p.returncode, *t) for p, t in zip(processes, texts, strict=True)]


def finish(processes):
  """Like `ended`, but requires exit code 0 of every process."""
  try:
    results = ended(processes)
    for code, _, errors in results:
      assert code == 0, errors
    return results
  finally:
    for process in processes:
      process.kill()


def train(workdir, *words, **options):
  """Runs processes to their end; requires exit code 0 of each."""
  with started(workdir, *words, **options) as processes:
    return finish(processes)


def wait_for(condition, processes, timeout=120):
  """Waits until a condition holds, while the processes run."""
  until = time.monotonic() + timeout
  while not condition():
    codes = [p.poll() for p in processes]
    assert codes == [None] * len(codes), [p.communicate() for p in processes]
    assert time.monotonic() < until, "it never came"
    time.sleep(0.02)


def errors_of(text):
  """Returns the lines of an output that the trainer printed."""
  return [x for x in text.splitlines() if x.startswith("error: ")]
