"""Best-fit packing beside its definition, and segment ids."""

import numpy as np
import pytest

from tests.train.data.tokenizing import rows_of, tokenized
from train.data import (
  Tokens,
  packing,
)


def lengths_of(rng, count, length):
  return np.clip(rng.lognormal(np.log(length) - 1.5, 1, count), 2, None)


def brute_best_fit(sizes, length):
  """Places one piece after another, from the definition: sums of the rows."""
  rooms, rows = [], []
  for size in sorted(sizes, reverse=True):
    fitting = [r for r in rooms if r >= size]
    if fitting:
      number = rooms.index(min(fitting))
    else:
      number = len(rooms)
      rooms.append(length)
      rows.append([])
    rooms[number] -= size
    rows[number].append(size)
  return sorted(map(sum, rows))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, 8, 61])
def test_best_fit_is_the_definition(seed, length):
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, 2 * length + 1, 200)
  starts = np.cumsum(sizes + 1) - sizes - 1
  plan = packing.best_fit(starts, int((sizes + 1).sum()), length)
  pieces = [
    piece
    for size in sizes
    for piece in [length] * (size // length) + [size % length]
    if piece
  ]
  rows = [
    plan.sizes[a:b].tolist()
    for a, b in zip(plan.rows[:-1], plan.rows[1:], strict=True)
  ]
  # Among rows with equal room any is the best fit.
  assert sorted(map(sum, rows)) == brute_best_fit(pieces, length)
  assert sorted(plan.sizes) == sorted(pieces)


def test_best_fit_cuts_no_document_that_fits_and_wastes_little():
  rng = np.random.default_rng(0)
  sizes = lengths_of(rng, 5000, 512).astype(np.int64)
  starts = np.cumsum(sizes) - sizes
  plan = packing.best_fit(starts, int(sizes.sum()), 512)
  by_begin = dict(zip(plan.begins.tolist(), plan.sizes.tolist(), strict=True))
  for begin, size in zip(starts.tolist(), sizes.tolist(), strict=True):
    if size - 1 <= 512:
      assert by_begin.pop(begin) == size - 1
    else:
      # Full pieces and a rest, one after another.
      for at in range(begin, begin + size - 1, 512):
        assert by_begin.pop(at) == min(512, begin + size - 1 - at)
  assert not by_begin
  filled = np.add.reduceat(plan.sizes, plan.rows[:-1])
  assert filled.max() <= 512 and filled.sum() == (sizes - 1).sum()
  assert 1 - filled.sum() / (512 * len(plan)) < 0.002


def test_segment_ids_restart_in_each_row(tmp_path, no_processes):
  rng = np.random.default_rng(1)
  contents = [b"x" * rng.integers(1, 20) for _ in range(40)]
  folder = tokenized(tmp_path, contents)
  for kind in ("end_to_end", "best_fit"):
    config = Tokens(path=folder, length=24, packing=kind, validation=folder)
    for row in rows_of(config.open("train")):
      ids = row["segment_ids"]
      assert ids[0] == 0 and set(np.diff(ids)) <= {0, 1}
      padded = (row["weights"] == 0) & (row["inputs"] == 256)
      if kind == "best_fit":
        # Each segment is a document, from its separator on, or the padding.
        opens = np.flatnonzero(np.diff(ids, prepend=-1))
        assert (row["inputs"][opens] == 256).all()
        assert ((row["inputs"] == 256).sum() - padded.sum()) in range(
          len(opens) - 1, len(opens) + 1
        )
