"""Trains replicas: one process, one compilation, one directory each."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax

from train.config import Mesh, validate
from train.devices.signals import Stop, stop_signals
from train.devices.strategy import Strategy
from train.errors import CheckError, NonFiniteError, UserError, one_line
from train.files import lock
from train.loop import Loop, opened
from train.metrics import FILE_NAME, MetricsWriter, NoWriter
from train.parts import Parts, first_lines, make_parts, make_writer
from train.replicas import choice
from train.replicas.members import Replica, on_one_device, refuse
from train.replicas.programs import Stack, check_rates, in_turn
from train.setup import make_workdir, share


@dataclasses.dataclass(frozen=True)
class Results:
  """How the replicas ended.

  Attributes:
    mode: "turn" or "vmap".
    steps: Updates done, by the name of the replica.
    metrics: Validation metrics of the last state, by name; empty if it was not
      evaluated.
    failures: Why a replica stopped, by name; the others went on.
    signal: The signal that ended the command, or None.
  """

  mode: str
  steps: Mapping[str, int]
  metrics: Mapping[str, Mapping[str, float]]
  failures: Mapping[str, str]
  signal: int | None


@dataclasses.dataclass(eq=False)
class _Member:
  """A replica while it runs.

  Attributes:
    index: Its place among all replicas.
    name: Its name.
    loop: Its loop.
    writer: Writes its metrics and its messages.
  """

  index: int
  name: str
  loop: Loop
  writer: MetricsWriter | NoWriter


def run(
  replicas: Sequence[Replica],
  workdir: str,
  mode: str = "auto",
  profile_steps: range = range(0),
  *,
  source: str | None = None,
  new_data: bool = False,
) -> Results:
  """Trains all replicas, each from its own last checkpoint if it has one.

  A replica whose numbers are not finite stops with its message, and the others
  go on. A signal saves all of them.

  Args:
    replicas: What `replicas_of` returned: one or more.
    workdir: The directory of all replicas; each has its own folder in it.
    mode: "auto", "turn" or "vmap"; "auto" measures both.
    profile_steps: As for `train.loop.run`. The trace shows the steps of all
      replicas, and is in the folder of the first one.
    source: As for `train.loop.run`.
    new_data: As for `train.loop.run`.

  Raises:
    UserError: The command was wrong.
    OSError: The disk is full; complete checkpoints are kept.
  """
  sizes = {"devices": jax.device_count(), "processes": jax.process_count()}
  meshes = [validate(replica.config, **sizes) for replica in replicas]
  mesh = meshes[0]
  refuse(replicas, mode, mesh, jax.process_count())
  make_workdir(workdir)
  _refuse_single_run(workdir)
  with (
    stop_signals() as stop,
    lock.held(workdir),
    make_writer(replicas[0].config, workdir) as speaker,
    contextlib.ExitStack() as stack,
  ):
    config = replicas[0].config
    shared = share(config, mesh, {}, copies=len(replicas))
    for line in first_lines(config, mesh, shared):
      speaker.text(line)
    parts = make_parts(config, shared, speaker.text)
    mode, strategies, expect = _programs(
      replicas, parts, mesh, workdir, mode, speaker.text
    )
    options = {"source": source, "new_data": new_data}
    members: list[_Member] = []
    for replica, strategy in zip(replicas, strategies, strict=True):
      own = dataclasses.replace(
        parts, shared=shared._replace(strategy=strategy)
      )
      traced = range(0) if members else profile_steps
      member = _opened(len(members), replica, workdir, own, traced, **options)
      members.append(stack.enter_context(member))
    failures = _train(members, stop, expect)
  steps = {member.name: member.loop.step for member in members}
  if stop.signal is not None:
    saved = " to ".join(map(str, sorted({*steps.values()})))
    name = signal.Signals(stop.signal).name
    speaker.text(f"{name}: saved step {saved}; the same command resumes there")
  metrics = {member.name: member.loop.metrics for member in members}
  return Results(mode, steps, metrics, failures, stop.signal)


def _refuse_single_run(workdir: str) -> None:
  for name in (FILE_NAME, "checkpoints"):
    if os.path.lexists(os.path.join(workdir, name)):
      raise UserError(
        f"{workdir} holds a run without --replicas: give another --workdir"
      )


def _programs(
  replicas: Sequence[Replica],
  parts: Parts,
  mesh: Mesh,
  workdir: str,
  mode: str,
  text: Callable[[str], None],
) -> tuple[str, list[Strategy], Callable[[Collection[int]], None]]:
  """Chooses the mode, and makes the programs.

  If it measures the modes, it sets `parts.compile_seconds`.

  Returns:
    The mode, the strategy of each replica, and a function to call before each
    round with the places of the replicas that take a step in it.
  """
  config, shared, count = replicas[0].config, parts.shared, len(replicas)
  rates = [replica.rate for replica in replicas if replica.rate is not None]
  if rates:
    check_rates(config, shared, rates[0])
  turn = in_turn(config, shared, rates or None, count)
  found, chosen = None, mode
  if mode == "auto":
    can_stack = on_one_device(config, mesh) and count > 1
    chosen = (choice.read(workdir) or mode) if can_stack else "turn"
  stack = None
  if chosen != "turn":
    stack = Stack(config, shared, rates or None, count)
  if stack is not None and chosen == "auto":
    found = choice.measure(config, shared, turn, stack)
    chosen = found.mode
    parts.compile_seconds = found.compile_seconds
    text(found.line(count))
  else:
    text(f"{count} replicas: mode {chosen}")
  choice.write(workdir, chosen, found)
  if stack is None or chosen == "turn":
    return chosen, turn, lambda indices: None
  return chosen, stack.strategies(), stack.expect


@contextlib.contextmanager
def _opened(
  index: int,
  replica: Replica,
  workdir: str,
  parts: Parts,
  profile_steps: range,
  **options: Any,
) -> Iterator[_Member]:
  """Yields a replica that holds the lock of its directory."""
  folder = os.path.join(workdir, replica.name)
  make_workdir(folder)
  with (
    lock.held(folder),
    make_writer(replica.config, folder, replica.name) as writer,
    opened(
      replica.config, folder, parts, writer, profile_steps, **options
    ) as loop,
  ):
    yield _Member(index, replica.name, loop, writer)


def _train(
  members: Sequence[_Member],
  stop: Stop,
  expect: Callable[[Collection[int]], None],
) -> dict[str, str]:
  """Runs all replicas to their ends, one step each per round.

  Returns:
    The messages of the replicas that failed, by name.
  """
  failures: dict[str, str] = {}
  left = list(members)
  while left:
    stopping = stop.poll()
    # After a kill, the replicas with the older checkpoints catch up first.
    least = min(member.loop.step for member in left)
    turn = [m for m in left if stopping or m.loop.step == least]
    going = []
    for member in turn:
      with _noted(member, failures):
        if member.loop.ready(stopping):
          going.append(member)
    expect([member.index for member in going])
    for member in going:
      with _noted(member, failures):
        member.loop.advance()
    ended = {m for m in turn if m not in going or m.name in failures}
    left = [member for member in left if member not in ended]
  return failures


@contextlib.contextmanager
def _noted(member: _Member, failures: dict[str, str]) -> Iterator[None]:
  """Records that a replica has failed, so that the others can go on."""
  try:
    yield
  except (NonFiniteError, CheckError) as error:
    failures[member.name] = one_line(error)
    member.writer.text(
      f"stops, and the other replicas go on: {failures[member.name]}"
    )
