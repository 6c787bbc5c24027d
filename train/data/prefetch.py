"""Reads batches ahead in threads, and sends them before a step needs them."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np

from train.data.batches import Batches, stack
from train.data.dataset import THREADS, Example

# Batches that are being read while one is in use.
AHEAD = 2


class Placed(NamedTuple):
  """A batch on the host and on the devices.

  Attributes:
    host: Arrays `[B, L]`.
    device: The same arrays on the devices, sharded for the strategy.
    position: The data position before the batch.
  """

  host: Mapping[str, np.ndarray]
  device: Any
  position: int


class _Closed(contextlib.AbstractContextManager):
  """What a `with` block closes at its end."""

  def close(self) -> None:
    """Ends the threads; a read under way is not waited for."""
    raise NotImplementedError

  def __exit__(self, *error: object) -> None:
    self.close()


class ReadAhead(_Closed, Iterator[Example]):
  """Yields the batches of a stream, and reads the next ones in threads.

  The rows of a batch are shared out among the threads, so a batch of slow reads
  takes the time of `rows / threads` of them. At most `AHEAD` batches are read
  ahead. The stream is that of `batches`, whatever the threads do: an error is
  raised where its batch would have been, after all batches before it.

  Use it in a `with` block, or call `close`.

  Args:
    batches: The stream.
    threads: How many threads read; 0 to read when a batch is asked for. By
      default what the data set says, see `Dataset`.
  """

  def __init__(self, batches: Batches, threads: int | None = None):
    if threads is None:
      threads = getattr(batches.dataset, "threads", THREADS)
    self._batches = batches
    self._threads = threads
    self._position = batches.position
    self._ahead: collections.deque[tuple[int, list[Future]]] = (
      collections.deque()
    )
    self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
    self._workers: list[threading.Thread] = []
    self._closed = False

  @property
  def position(self) -> int:
    """Examples of the batches yielded so far: the position to resume at."""
    return self._position

  def __next__(self) -> Example:
    with jax.profiler.TraceAnnotation("read batch"):
      if not self._threads:
        batch = next(self._batches)
        self._position = self._batches.position
        return batch
      self._fill()
      if not self._ahead:
        raise StopIteration
      after, parts = self._ahead.popleft()
      examples = [row for part in parts for row in part.result()]
      self._position = after
      self._fill()
      return stack(examples)

  def _fill(self) -> None:
    """Hands out batches to the threads until enough are on their way."""
    if self._closed:
      raise ValueError("the batches are closed")
    while len(self._ahead) < AHEAD:
      try:
        rows = self._batches.advance()
      except StopIteration:
        return
      each = -(-len(rows) // self._threads)
      parts = []
      for begin in range(0, len(rows), each):
        future: Future = Future()
        some = rows[begin : begin + each]
        self._tasks.put(_Task(future, self._batches, some))
        parts.append(future)
      self._ahead.append((self._batches.position, parts))
      self._start(len(parts))

  def _start(self, count: int) -> None:
    while len(self._workers) < count:
      # A thread that hangs in a read must not keep the process from ending.
      worker = threading.Thread(
        target=_work, args=(self._tasks,), name="read batch", daemon=True
      )
      worker.start()
      self._workers.append(worker)

  def close(self) -> None:
    """Ends the threads; a read under way is not waited for."""
    self._closed = True
    for _, parts in self._ahead:
      for future in parts:
        future.cancel()
    self._ahead.clear()
    for _ in self._workers:
      self._tasks.put(None)
    self._workers = []


class _Task(NamedTuple):
  """Rows to read, and where the examples go."""

  future: Future
  batches: Batches
  rows: list[int | None]


def _work(tasks: queue.SimpleQueue[_Task | None]) -> None:
  """Reads until there is a None among the tasks."""
  while (task := tasks.get()) is not None:
    if not task.future.set_running_or_notify_cancel():
      continue
    try:
      task.future.set_result(task.batches.read(task.rows))
    except BaseException as error:
      task.future.set_exception(error)
    # Or the last batch would be kept until the next task.
    del task


class Prefetched(_Closed):
  """Returns batches, and sends one batch to the devices ahead of time.

  A dispatch returns at once, so a batch that is sent right after a dispatch is
  on its way while the devices run the step. Threads read the batches behind it,
  so that reads may take longer than a step: see `ReadAhead`.

  Use it in a `with` block, or call `close`.

  Args:
    batches: The stream.
    place: Sends arrays `[B, L]` to the devices.
    threads: See `ReadAhead`.
  """

  def __init__(
    self,
    batches: Batches,
    place: Callable[[Mapping[str, np.ndarray]], Any],
    threads: int | None = None,
  ):
    self._reader = ReadAhead(batches, threads)
    self._place = place
    self._ahead: Placed | Exception | None = None
    self._position = batches.position

  @property
  def position(self) -> int:
    """Number of examples returned so far: the position to resume at."""
    return self._position

  def prefetch(self) -> None:
    """Sends the next batch, unless it was prefetched already.

    `take` raises an error of this batch later, so that the loop first reports
    and saves the steps before it.
    """
    if self._ahead is None:
      try:
        position = self._reader.position
        host = next(self._reader)
        self._ahead = Placed(host, self._place(host), position)
      except Exception as error:
        self._ahead = error

  def take(self) -> Placed:
    """Returns the next batch; reads it now if it was not prefetched."""
    self.prefetch()
    ahead, self._ahead = self._ahead, None
    if isinstance(ahead, Exception):
      raise ahead
    assert ahead is not None
    self._position = self._reader.position
    return ahead

  def close(self) -> None:
    """Ends the threads; a read under way is not waited for."""
    self._reader.close()
