"""Reading ahead by our own threads and by Grain's, in one run.

  pip install grain
  python -m benchmarks.reads

prints examples per second of `train.data.Batches` without threads, of
`train.data.prefetch.ReadAhead`, and of Grain's `MapDataset` with the same
number of threads, for reads of several lengths; and the ratio to Grain.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator

import numpy as np

from train.data import Batches
from train.data.dataset import THREADS
from train.data.prefetch import AHEAD, ReadAhead


class Slow:
  """Rows of 512 tokens, read in a given time."""

  vocab_size = 257

  def __init__(self, seconds: float):
    self._seconds = seconds
    self._row = np.zeros(512, np.int32)

  def __len__(self) -> int:
    return 100_000

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    if self._seconds:
      time.sleep(self._seconds)
    return {"inputs": self._row, "targets": self._row + np.int32(index % 7)}


def grain_batches(data: Slow, batch_size: int) -> Iterator:
  """Yields batches as Grain's documentation makes them."""
  import grain

  examples = grain.MapDataset.source(data).seed(0).shuffle().repeat()
  options = grain.ReadOptions(
    num_threads=THREADS, prefetch_buffer_size=(1 + AHEAD) * batch_size
  )
  # In the order of examples, then batches: threads read examples.
  return iter(examples.to_iter_dataset(options).batch(batch_size))


def rate(batches: Iterable, batch_size: int, count: int) -> float:
  """Returns examples per second, after one batch to warm up."""
  stream = iter(batches)
  next(stream)
  begun = time.perf_counter()
  for _ in range(count):
    next(stream)
  return count * batch_size / (time.perf_counter() - begun)


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch_size", type=int, default=32)
  size = parser.parse_args().batch_size
  print("| read | Batches | ReadAhead | Grain | ReadAhead / Grain |")
  print("|---|---|---|---|---|")
  for milliseconds in (0, 1, 20):
    data = Slow(milliseconds / 1000)
    count = 4 if milliseconds == 20 else 100
    plain = rate(Batches(data, size, seed=0), size, count)
    ours, theirs = [], []
    for _ in range(3):
      with ReadAhead(Batches(data, size, seed=0)) as reader:
        ours.append(rate(reader, size, 5 * count))
      theirs.append(rate(grain_batches(data, size), size, 5 * count))
    a, b = np.median(ours), np.median(theirs)
    print(
      f"| {milliseconds} ms | {plain:,.0f} | {a:,.0f} | {b:,.0f}"
      f" | {a / b:.2f} |",
      flush=True,
    )


if __name__ == "__main__":
  main()
