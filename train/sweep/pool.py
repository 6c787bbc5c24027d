"""Runs the processes of a sweep, some at a time, and shows the progress."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Protocol

import tqdm

from train import files
from train.errors import UserError
from train.files import lock
from train.streams import log
from train.sweep import results
from train.sweep.results import Outcome

# The module that every child runs; tests put a quicker one here.
MODULE = "train.sweep.cell"
# The variable of the environment with the cores of a child, such as "0,1".
CORES = "JAXMODELS_CORES"
# Seconds between two looks at the children.
_PAUSE = 0.1
# Seconds in which the children of a killed sweep save and end.
_PATIENCE = 60.0


class Job(Protocol):
  """What one process trains."""

  @property
  def name(self) -> str:
    """Its folder in the folder of the sweep."""

  @property
  def words(self) -> tuple[str, ...]:
    """Its arguments of `python -m train`, after those that all jobs share."""

  @property
  def steps(self) -> int:
    """The steps that it takes in all."""

  @property
  def metric(self) -> str:
    """The metric to print when it has ended."""


class Reader(Protocol):
  """How the folder of a job is read, such as `train.sweep.results`."""

  def read(self, job: Any, folder: str) -> Outcome:
    """What the job has reached, from its folder."""

  def record(
    self, job: Any, folder: str, code: int, spent: results.Spent
  ) -> Outcome:
    """Writes how a process of the job has ended, and returns it."""

  def last_step(self, folder: str) -> int:
    """The steps that the job has taken so far."""


class Pool:
  """The runs of a sweep, and the processes that train them.

  Args:
    runs: The runs.
    folder: The folder of the sweep, which holds one folder per run.
    command: The words before the flags of a run: the config, shared flags.
    processes: Most processes at a time.
    changed: Called with all outcomes when a run has ended.
    reader: Reads the folders of the runs.
    share_cores: Whether each process gets its own equal share of the cores.
      Small steps are faster on one core than on several.

  Attributes:
    outcomes: How each run has ended, by its name.
    signal: The number of the signal that ended the sweep, or None.
  """

  def __init__(
    self,
    runs: Sequence[Job],
    folder: str,
    command: Sequence[str],
    processes: int,
    changed: Callable[[Mapping[str, Outcome]], object],
    *,
    reader: Reader = results,
    share_cores: bool = False,
  ):
    self._runs, self._folder, self._command = runs, folder, command
    self._processes, self._changed = processes, changed
    self._reader = reader
    self._cores = _shares(processes) if share_cores else [""] * processes
    self.outcomes = {r.name: reader.read(r, self._path(r)) for r in runs}
    self.signal: int | None = None
    self._received: list[int] = []
    self._children: dict[Job, _Child] = {}
    self._waiting = [r for r in runs if self.outcomes[r.name].state != "done"]
    self._progress = _Progress(self._waiting, self._path, reader)

  def _path(self, run: Job) -> str:
    return os.path.join(self._folder, run.name)

  def run(self) -> None:
    """Trains what is not done; returns when all have ended, or at a signal."""
    done = len(self._runs) - len(self._waiting)
    skipped = f", {done} of them done before" if done else ""
    self._progress.text(f"{len(self._runs)} runs{skipped}, in {self._folder}")
    begun = time.monotonic()
    with self._signals(), self._progress:
      try:
        while self._children or (self._waiting and self.signal is None):
          self._pass_signals_on()
          is_patient = time.monotonic() - begun < _PATIENCE
          if self.signal is None:
            self._start(is_patient)
          for run, child in list(self._children.items()):
            if child.has_ended():
              self._end(run, child)
          self._progress.show()
          time.sleep(_PAUSE)
      finally:
        for child in self._children.values():
          child.process.terminate()
        for child in self._children.values():
          child.process.wait()

  def stopped(self, things: str) -> int | None:
    """Says what is done if a signal has stopped the jobs.

    Args:
      things: What the jobs are called, such as "runs".

    Returns:
      The exit code; None if there was no signal.
    """
    if self.signal is None:
      return None
    states = [outcome.state for outcome in self.outcomes.values()]
    log(
      f"{signal.Signals(self.signal).name}: {states.count('done')} of"
      f" {len(states)} {things} are done; the same command continues"
    )
    return 128 + self.signal

  def _start(self, is_patient: bool) -> None:
    """Starts processes until enough of them run."""
    for run in list(self._waiting):
      if len(self._children) >= self._processes:
        return
      # A child of a killed sweep may still be saving.
      if is_patient and _is_locked(self._path(run)):
        continue
      self._waiting.remove(run)
      words = (*self._command, *run.words)
      before = self.outcomes[run.name].spent
      taken = [child.cores for child in self._children.values()]
      cores = next(c for c in self._cores if not c or c not in taken)
      self._children[run] = _Child(
        self._path(run), words, self._processes, before, cores
      )

  def _end(self, run: Job, child: "_Child") -> None:
    """Takes note of a process that has ended."""
    del self._children[run]
    code, spent = child.end()
    outcome = self._reader.record(run, self._path(run), code, spent)
    if outcome.state == "failed" and self.signal is not None:
      # It was asked to end; the same command resumes it.
      self.outcomes[run.name] = Outcome(spent=spent)
      return
    self.outcomes[run.name] = outcome
    self._progress.ended(run)
    values = [
      f"{name} {value:.4g}"
      for name, value in outcome.metrics.items()
      if name == run.metric
    ]
    reason = [f"failed: {outcome.reason}"] if outcome.reason else values
    count = sum(o.state != "not run" for o in self.outcomes.values())
    left = self._left(len(self._runs) - count)
    self._progress.text(
      f"{count}/{len(self._runs)}  {run.name}  {'  '.join(reason)}"
      f"  {duration(spent.seconds)}{left}"
    )
    self._changed(self.outcomes)

  def _left(self, count: int) -> str:
    """Says how long the last `count` runs take, at the speed of those done."""
    found = [(r.steps, self.outcomes[r.name]) for r in self._runs]
    done = [(s, o.spent.seconds) for s, o in found if o.state == "done"]
    steps, seconds = sum(s for s, _ in done), sum(t for _, t in done)
    if not count or not steps:
      return ""
    left = self._progress.remaining() * seconds / steps
    return f", {duration(left / min(self._processes, count))} left"

  @contextlib.contextmanager
  def _signals(self) -> Iterator[None]:
    """Collects SIGTERM and Ctrl-C instead of ending at once."""

    def receive(number: int, frame: FrameType | None) -> None:
      self._received.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def _pass_signals_on(self) -> None:
    """Sends signals to all children: they save, or end at once at a second."""
    while self._received:
      number = self._received.pop(0)
      if self.signal is None and self._children:
        name = signal.Signals(number).name
        self._progress.text(
          f"{name}: {len(self._children)} runs save and end; send it again to"
          " end them at once"
        )
      self.signal = self.signal or number
      for child in self._children.values():
        child.process.send_signal(number)


class _Child:
  """One process, whose output goes to a file in the folder of its run."""

  def __init__(
    self,
    folder: str,
    words: Sequence[str],
    processes: int,
    before: results.Spent,
    cores: str,
  ):
    os.makedirs(folder, exist_ok=True)
    words = (*words, f"--workdir={folder}")
    self._begun, self._before = time.monotonic(), before
    self._processor = 0.0
    self.cores = cores
    env = {**os.environ, CORES: cores}
    if processes > 1:
      # By default each process would take three quarters of a GPU's memory.
      share = f"{0.9 / processes:.3f}"
      env.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
    path = os.path.join(folder, results.OUTPUT)
    with files.open_append(path) as output:
      line = f"$ python -m train {shlex.join(words)}\n"
      output.write(line.encode("utf-8", "surrogateescape"))
      output.flush()
      self.process = subprocess.Popen(
        [sys.executable, "-m", MODULE, *words],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=env,
        # Or Ctrl-C of a terminal would reach it twice.
        start_new_session=True,
      )

  def has_ended(self) -> bool:
    """Whether the process has ended; notes its processor time if so."""
    before = _processor_seconds()
    if self.process.poll() is None:
      return False
    self._processor = _processor_seconds() - before
    return True

  def end(self) -> tuple[int, results.Spent]:
    """Returns the exit code, and the time of all processes of the run."""
    assert self.process.stdin is not None
    self.process.stdin.close()
    spent = results.Spent(
      self._before.seconds + time.monotonic() - self._begun,
      self._before.processor_seconds + self._processor,
    )
    return self.process.wait(), spent


class _Progress:
  """Steps of all runs: a bar on a terminal, and the time that is left."""

  def __init__(
    self, runs: Sequence[Job], path: Callable[[Job], str], reader: Reader
  ):
    self._steps = {r: min(reader.last_step(path(r)), r.steps) for r in runs}
    self._path, self._reader = path, reader
    self._ended = set[Job]()
    self._total = sum(run.steps for run in runs)
    self._first = sum(self._steps.values())
    self._looked = time.monotonic()
    self._bar: tqdm.tqdm | None = None
    if sys.stderr.isatty() and runs:
      self._bar = tqdm.tqdm(
        total=self._total, initial=self._first, unit="step", file=sys.stderr
      )

  def __enter__(self) -> "_Progress":
    return self

  def __exit__(self, *error: object) -> None:
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def text(self, line: str) -> None:
    """Prints a line, above the bar if there is one."""
    if self._bar is None:
      log(line)
    else:
      self._bar.write(line)

  def show(self) -> None:
    """Updates the bar once per second."""
    if self._bar is not None and time.monotonic() - self._looked > 1:
      self._looked = time.monotonic()
      self._bar.n = self._now()
      self._bar.refresh()

  def ended(self, run: Job) -> None:
    """Counts all steps of a run that has ended, also if it failed."""
    self._ended.add(run)
    self._steps[run] = run.steps

  def _now(self) -> int:
    for run in self._steps.keys() - self._ended:
      now = self._reader.last_step(self._path(run))
      self._steps[run] = min(max(now, self._steps[run]), run.steps)
    return sum(self._steps.values())

  def remaining(self) -> int:
    """Returns the steps of all runs that are still to do."""
    return self._total - self._now()


def _processor_seconds() -> float:
  """The processor time of all children that have ended."""
  times = os.times()
  return times.children_user + times.children_system


def _shares(processes: int) -> list[str]:
  """The cores of each process; "" for all, where they cannot be shared out."""
  if not hasattr(os, "sched_getaffinity"):
    return [""] * processes
  cores = sorted(os.sched_getaffinity(0))
  if len(cores) < processes:
    return [""] * processes
  shares = [cores[i::processes] for i in range(processes)]
  return [",".join(map(str, share)) for share in shares]


def duration(seconds: float) -> str:
  """Returns a time as text: `42 s`, `3 min 20 s`, `5 h 1 min`."""
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  if whole < 3600:
    return f"{whole // 60} min {whole % 60} s"
  return f"{whole // 3600} h {whole % 3600 // 60} min"


def _is_locked(folder: str) -> bool:
  """Whether another process trains in a folder."""
  if not os.path.isdir(folder):
    return False
  try:
    with lock.held(folder):
      return False
  except UserError:
    return True
