"""Which tokens a row holds: documents end to end, or whole documents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Plan(NamedTuple):
  """The pieces of documents that each row holds.

  A piece of n predictions is n + 1 tokens of the stream, of which the first is
  read only and the last is predicted only.

  Attributes:
    begins: Where the pieces begin in the stream, int64, row after row.
    sizes: Predictions per piece, int32.
    rows: The number of the first piece of each row, and of all pieces.
  """

  begins: np.ndarray
  sizes: np.ndarray
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows) - 1


def best_fit(starts: np.ndarray, stop: int, length: int) -> Plan:
  """Packs documents into rows without cutting them, by best fit decreasing.

  The documents, from the longest to the shortest, go where they leave the
  least room (Ding et al., 2024, "Fewer Truncations Improve Language Modeling",
  arXiv:2404.10830). Only a document longer than a row is cut, into rows that
  are full and one rest. Equal documents keep their order, so the plan depends
  on the lengths alone.

  Cost: time O(documents), plus a few array operations per distinct length;
  memory about 60 bytes per piece while the plan is made, 15 after.

  Args:
    starts: Where the documents begin, increasing, [documents].
    stop: Where the last one ends.
    length: Predictions per row, L.

  Returns:
    The plan. Documents of one token have nothing to predict and are left out.
  """
  begins, sizes = _pieces(starts, stop, length)
  order = np.argsort(-sizes, kind="stable")
  begins, sizes = begins[order], sizes[order]
  rows, count = _fit(sizes, length)
  order = np.argsort(rows, kind="stable")
  edges = np.searchsorted(rows[order], np.arange(count + 1))
  return Plan(begins[order], sizes[order], edges)


def _pieces(
  starts: np.ndarray, stop: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts documents that are longer than a row: begins and sizes of pieces."""
  sizes = np.diff(starts, append=stop) - 1
  counts = -(-sizes // length)
  first = np.cumsum(counts) - counts
  number = np.arange(counts.sum()) - np.repeat(first, counts)
  begins = np.repeat(starts, counts) + number * length
  left = np.repeat(sizes, counts) - number * length
  return begins, np.minimum(left, length).astype(np.int32)


def _fit(sizes: np.ndarray, length: int) -> tuple[np.ndarray, int]:
  """Assigns a row to each piece; pieces of one size are assigned together.

  Args:
    sizes: Decreasing, each in [1, length].
    length: Tokens per row.

  Returns:
    The row of each piece, int32, and the number of rows.
  """
  rows = np.empty(len(sizes), np.int32)
  open_rows = _OpenRows(length)
  at = 0
  counts = np.bincount(sizes, minlength=1)
  for size in np.flatnonzero(counts)[::-1].tolist():
    left = int(counts[size])
    while left:
      found, room = open_rows.take(size, left)
      # A row that is the best fit stays it until no further piece fits.
      each = room // size
      used = min(len(found), -(-left // each))
      taken = np.repeat(found[:used], each)[:left]
      rows[at : at + len(taken)] = taken
      at, left = at + len(taken), left - len(taken)
      last = len(taken) - (used - 1) * each
      open_rows.keep(found[: used - 1], room - each * size)
      open_rows.keep(found[used - 1 : used], room - last * size)
      open_rows.keep(found[used:], room)
  return rows, open_rows.count


class _OpenRows:
  """Rows by the room that is left in them.

  Args:
    length: Room of a new row.
  """

  def __init__(self, length: int):
    self.count = 0
    self._length = length
    self._by_room: list[list[np.ndarray]] = [[] for _ in range(length + 1)]
    # A bit for each room that some row has.
    self._rooms = 0

  def take(self, size: int, pieces: int) -> tuple[np.ndarray, int]:
    """Returns all rows with the least room that is enough, and that room.

    Where none has enough, they are new rows, for so many pieces of that size.
    """
    fitting = self._rooms >> size
    if not fitting:
      made = -(-pieces // (self._length // size))
      self.count += made
      new = np.arange(self.count - made, self.count, dtype=np.int32)
      return new, self._length
    room = size + (fitting & -fitting).bit_length() - 1
    found = np.concatenate(self._by_room[room])
    self._by_room[room] = []
    self._rooms &= ~(1 << room)
    return found, room

  def keep(self, rows: np.ndarray, room: int) -> None:
    """Puts rows back; full ones are left out."""
    if len(rows) and room:
      self._by_room[room].append(rows)
      self._rooms |= 1 << room
