"""How prompts of different lengths are cut into chunks of equal lengths."""

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["chunk_sizes", "chunks"]

# A prompt is read in chunks, its rest in chunks of an eighth, and so on.
_SHRINK = 8
# Chunks that one dispatch reads, at most.
_CHUNKS = 8


def chunk_sizes(chunk_size: int) -> list[int]:
  """The sizes of chunks, in tokens: each is an eighth of the one before."""
  sizes = [chunk_size]
  while sizes[-1] > 1:
    sizes.append(max(1, sizes[-1] // _SHRINK))
  return sizes


def chunks(
  rows: Sequence[np.ndarray], lengths: np.ndarray, sizes: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields tokens [N, B, C] and the rows that take them, [N, B] bool.

  How a row is cut depends on its own length alone.

  Args:
    rows: The tokens of each row, int32.
    lengths: [B], how many of them are read.
    sizes: The sizes C, from `chunk_sizes`.
  """
  places, rest = np.zeros_like(lengths), lengths.copy()
  for size in sizes:
    while (rest >= size).any():
      tokens = np.zeros((_CHUNKS, len(rows), size), np.int32)
      take = np.zeros((_CHUNKS, len(rows)), bool)
      for i in range(_CHUNKS):
        take[i] = rest >= size
        for row, place, own, taken in zip(
          rows, places, tokens[i], take[i], strict=True
        ):
          if taken:
            own[:] = row[place : place + size]
        places += size * take[i]
        rest -= size * take[i]
      yield tokens, take
