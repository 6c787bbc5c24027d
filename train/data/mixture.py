"""Several data sets as one, in given shares."""

from __future__ import annotations

import dataclasses
import fractions
import math
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np

from train.data.dataset import (
  THREADS,
  Dataset,
  Example,
  at_length,
  check_index,
  check_split,
  content_bytes,
  digest,
  example,
)
from train.data.order import Order, order_of

# Examples that are interleaved at a time.
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Examples of several data sets, each with its share of every batch.

  Training draws from source k the share weights[k] / sum(weights) of all
  examples: of any n examples in a row, that share and less than 2 more or less,
  and of the whole exactly that share. Each source is shuffled by itself, and
  starts its next epoch when its own examples are used up, so a small source
  with a large weight repeats more often.

  Validation reads each example of each source once, the sources interleaved
  in proportion to their sizes.

  All sources need examples of one structure: the same arrays with the same
  shapes and dtypes. Tokens need the same vocabulary; the first source encodes
  and decodes text.

  Attributes:
    sources: The data sets to mix, as settings: `Text(...)`, `Tokens(...)`, or
      another mixture.
    weights: Positive numbers, one per source; without them, equal shares.
  """

  sources: tuple[Any, ...] = ()
  weights: tuple[float, ...] = ()

  def open(self, split: str) -> Mixed:
    """Opens all sources.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: for weights that do not fit the sources, or sources that do
        not fit each other.
    """
    check_split(split)
    weights = self.weights or (1,) * len(self.sources)
    if len(weights) != len(self.sources) or not self.sources:
      raise ValueError(
        f"a mixture needs sources and one weight for each, got"
        f" {len(self.sources)} sources and {len(weights)} weights"
      )
    if not all(0 < weight < math.inf for weight in weights):
      raise ValueError(
        f"the weights of a mixture must be positive, got {weights}: leave out a"
        " source that has no share"
      )
    opened = [source.open(split) for source in self.sources]
    for number, dataset in enumerate(opened):
      check_fit(opened[0], dataset, number)
    return Mixed(opened, weights)

  def codec(self, vocab_size: int | None = None) -> Any:
    """Returns the codec of the first source, or None if it has none."""
    make = getattr(self.sources[0], "codec", None) if self.sources else None
    return None if make is None else make(vocab_size)

  def at_length(self, length: int) -> Mixture:
    """Returns settings whose sources are all of another length."""
    sources = tuple(at_length(source, length) for source in self.sources)
    return dataclasses.replace(self, sources=sources)

  def read_only(self) -> Mixture:
    """Returns settings of which no source writes or downloads."""
    return dataclasses.replace(
      self,
      sources=tuple(
        source.read_only() if hasattr(source, "read_only") else source
        for source in self.sources
      ),
    )


def check_fit(
  first: Dataset, other: Dataset, number: int, whole: str = "the mixture"
) -> None:
  """Raises a ValueError if examples of two sources cannot share a batch."""
  if not len(other):
    raise ValueError(f"source {number} of {whole} has no examples")
  pair = first, other
  for what, values in (
    ("another vocabulary", [getattr(x, "vocab_size", None) for x in pair]),
    ("other examples", [_shapes(example(x, 0)) for x in pair]),
    ("other sequences", [getattr(x, "sequence", None) for x in pair]),
  ):
    if values[0] != values[1]:
      raise ValueError(
        f"source {number} of {whole} has {what} than source 0:"
        f" {values[1]} instead of {values[0]}; give all sources one tokenizer"
        " and one length"
      )


def _shapes(first: Any) -> str:
  import jax

  found = jax.tree_util.tree_leaves_with_path(first)
  return ", ".join(
    f"{jax.tree_util.keystr(path)} {np.asarray(x).dtype}{list(np.shape(x))}"
    for path, x in found
  )


class Mixed:
  """Examples of several data sets, numbered end to end; see `Mixture`."""

  def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float]):
    self._datasets = datasets
    self._weights = _whole_numbers(weights)
    self._sizes = [len(dataset) for dataset in datasets]
    self._edges = np.cumsum([0, *self._sizes])
    # Data other than tokens have none of these.
    for name in ("vocab_size", "sequence", "encode", "decode"):
      if hasattr(datasets[0], name):
        setattr(self, name, getattr(datasets[0], name))
    if all(hasattr(dataset, "content") for dataset in datasets):
      self.content = self._content
      self.content_bytes = self._size
    limits = {getattr(dataset, "threads", THREADS) for dataset in datasets}
    # What needs no threads can be read by those of the others.
    self.threads = min(limits - {0}, default=0)

  def __len__(self) -> int:
    return int(self._edges[-1])

  def __getitem__(self, index: SupportsIndex) -> Example:
    number = check_index(index, len(self))
    source = int(np.searchsorted(self._edges, number, "right")) - 1
    return example(self._datasets[source], number - int(self._edges[source]))

  def _parts(self, start: int, stop: int) -> Iterator[tuple[Any, int, int]]:
    """Yields sources, and which of their examples are in `[start, stop)`."""
    edges = self._edges.tolist()
    for dataset, edge, end in zip(
      self._datasets, edges, edges[1:], strict=False
    ):
      first, last = max(start, edge), min(stop, end)
      if first < last:
        yield dataset, first - edge, last - edge

  def _content(self, start: int, stop: int) -> bytes:
    parts = self._parts(start, stop)
    return b"".join(x.content(first, last) for x, first, last in parts)

  def _size(self, start: int, stop: int) -> int:
    return sum(
      content_bytes(dataset, np.arange(first, last)) or 0
      for dataset, first, last in self._parts(start, stop)
    )

  def digest(self) -> str:
    """Returns the digests of all sources."""
    return "-".join(digest(dataset) for dataset in self._datasets)

  def order(self, seed: Sequence[int] | None) -> Order:
    """Returns which example is at which place of the stream.

    Args:
      seed: Non-negative integers; None for the order of a validation.
    """
    inner = [
      order_of(dataset, None if seed is None else (*seed, number))
      for number, dataset in enumerate(self._datasets)
    ]
    counts = self._sizes if seed is None else self._weights
    interleave = Interleave(counts)

    def order(places: np.ndarray) -> np.ndarray:
      sources, numbers = interleave(places)
      found = np.empty_like(places)
      for source, edge in enumerate(self._edges[:-1]):
        here = sources == source
        if here.any():
          found[here] = edge + inner[source](numbers[here])
      return found

    return order


def _whole_numbers(weights: Sequence[float]) -> list[int]:
  """Returns the smallest whole numbers in the proportions of the weights."""
  # 0.1 means a tenth, not the binary fraction beside it.
  exact = [fractions.Fraction(repr(weight)) for weight in weights]
  common = math.lcm(*(x.denominator for x in exact))
  counts = [int(x * common) for x in exact]
  divisor = math.gcd(*counts)
  counts = [count // divisor for count in counts]
  if sum(counts) > 1 << 40:
    raise ValueError(
      f"the weights of a mixture differ by too many digits: {tuple(weights)};"
      " round them"
    )
  return counts


class Interleave:
  """Says which source is at a place, and how many of it came before.

  A period of sum(counts) places has counts[k] of source k, spread evenly. It is
  cut into blocks of about 512 places, whose numbers per source are rounded
  running sums; a block is put in order when it is needed.

  Args:
    counts: Positive integers, one per source.
  """

  def __init__(self, counts: Sequence[int]):
    self._counts = np.array(counts, np.int64)
    self._period = int(self._counts.sum())
    self._blocks = -(-self._period // _BLOCK)
    self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sources, and the numbers of their examples so far.

    Args:
      places: Of the stream, int64.
    """
    periods, within = np.divmod(places, self._period)
    sources, numbers = np.empty_like(places), np.empty_like(places)
    blocks = np.array([self._block_of(int(place)) for place in within])
    needed = np.unique(blocks).tolist()
    self._cache = {b: self._cache.get(b) or self._block(b) for b in needed}
    for block, (order, ranks) in self._cache.items():
      here = blocks == block
      before = self._before(block)
      at = within[here] - int(before.sum())
      sources[here] = order[at]
      numbers[here] = before[order[at]] + ranks[at]
    return sources, numbers + periods * self._counts[sources]

  def _before(self, block: int) -> np.ndarray:
    """Returns how many places of each source come before a block."""
    # Python's integers: the products may have more than 64 bits.
    return np.array(
      [block * count // self._blocks for count in self._counts.tolist()]
    )

  def _block_of(self, place: int) -> int:
    """Returns the last block that begins at or before a place."""
    block = min(place * self._blocks // self._period, self._blocks - 1)
    while int(self._before(block).sum()) > place:
      block -= 1
    while int(self._before(block + 1).sum()) <= place:
      block += 1
    return block

  def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source of each place of a block, and its rank there."""
    sizes = self._before(block + 1) - self._before(block)
    sources = np.repeat(np.arange(len(sizes)), sizes)
    ranks = np.concatenate([np.arange(size) for size in sizes])
    # The middles of equal parts of the block, one for each place of a source.
    order = np.argsort((ranks + 0.5) / sizes[sources], kind="stable")
    return sources[order], ranks[order]
