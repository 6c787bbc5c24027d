"""Multi-query associative recall: can a model look up what it was shown?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import numpy as np

from train.data.dataset import (
  SPLITS,
  Dataset,
  Example,
  NumberCodec,
  check_at_least,
  check_index,
  check_split,
)

# Examples are drawn this many at a time: vectorised, and small in memory.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Mqar:
  """Multi-query associative recall (Arora et al., 2023, arXiv:2312.04927).

  A row shows `num_pairs` keys, each followed by its value, and then asks for
  some of the keys again; at a key that is asked, the target is its value, and
  only these targets have weight. As in the paper's reference code

    k1 v1 k2 v2 ... | 0 0 k2 0 k1 0 0 0 ...     (inputs)
                    | 0 0 v2 0 v1 0 0 0 ...     (targets)

  - token 0 fills, keys are drawn from [1, vocab_size / 2) and values from
    [vocab_size / 2, vocab_size), both without repetition;
  - queries stand at even distances 2g behind the pairs, where the g of a row
    are drawn without repetition with probability proportional to
    (g + 1) ** (power - 1): most come soon, a few late, as in natural text;
  - the value does not follow its query in the inputs.

  It departs from the reference in that fewer than all keys may be asked.

  The examples are made once, by a `tfds` builder, and kept in `data_dir` under
  a name that spells out all settings.

  Attributes:
    length: tokens per row, L; at least two for each pair and each query.
    vocab_size: fill token, keys and values together.
    num_pairs: pairs of key and value a row.
    num_queries: keys asked a row; 0 for all of them.
    power: exponent a of the power law; 1 is uniform.
    train_examples: how many examples to make for training.
    validation_examples: how many to make for validation.
    seed: non-negative; gives the examples.
    data_dir: the folder that keeps them.
  """

  name: ClassVar[str] = "mqar"
  version: ClassVar[str] = "1.0.0"

  length: int = 128
  vocab_size: int = 256
  num_pairs: int = 8
  num_queries: int = 0
  power: float = 0.01
  train_examples: int = 20_000
  validation_examples: int = 1_000
  seed: int = 0
  data_dir: str = "data"

  def open(self, split: str) -> Dataset:
    """Opens a split, after making the examples if they are not there yet.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: for settings that leave no room for the pairs or queries.
    """
    check_split(split)
    _check(self)
    # tfds takes a moment to import; only who opens the data should pay for it.
    from train.data.tasks import builder

    return RecallDataset(builder.read(self, split), self.vocab_size)

  def codec(self, vocab_size: int | None = None) -> NumberCodec:
    """Returns what reads and writes tokens as numbers; opens nothing."""
    return NumberCodec(self.vocab_size)

  def read_only(self) -> InMemory:
    """Returns settings that make the examples anew, and write nothing."""
    return InMemory(self)

  @property
  def queries(self) -> int:
    """Queries a row."""
    return self.num_queries or self.num_pairs

  def settings(self) -> dict[str, Any]:
    """Returns every setting that changes the examples."""
    fields = dataclasses.asdict(self)
    del fields["data_dir"]
    return {**fields, "num_queries": self.queries}

  def generate(self, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Draws the examples of a split: `inputs` and `targets`, int32 [L]."""
    return generate(self, split)


class InMemory(NamedTuple):
  """Opens the examples of `Mqar` without a file, in the order of drawing.

  Stored examples have the order that tfds gave them.
  """

  settings: Mqar

  def open(self, split: str) -> Dataset:
    """Opens a split, as `Mqar.open` does."""
    check_split(split)
    _check(self.settings)
    rows = list(self.settings.generate(split))
    return RecallDataset(rows, self.settings.vocab_size)


class RecallDataset:
  """Rows of `Mqar`, read from stored `inputs` and `targets`, both [L]."""

  def __init__(self, source: Sequence[dict[str, np.ndarray]], vocab_size: int):
    self._source = source
    self.vocab_size = vocab_size
    codec = NumberCodec(vocab_size)
    self.encode = codec.encode
    self.decode = codec.decode

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: SupportsIndex) -> Example:
    stored = self._source[check_index(index, len(self))]
    targets = stored["targets"]
    return {
      "inputs": stored["inputs"],
      "targets": targets,
      # Values are never 0, the fill token.
      "weights": (targets != 0).astype(np.float32),
      "segment_ids": np.zeros_like(targets),
    }


def generate(config: Mqar, split: str) -> Iterator[dict[str, np.ndarray]]:
  """Draws the examples of a split: `inputs` and `targets`, int32 [L]."""
  total = getattr(config, f"{split}_examples")
  for chunk in range(-(-total // _CHUNK)):
    rng = np.random.default_rng([config.seed, SPLITS.index(split), chunk])
    inputs, targets = _draw(config, rng)
    for row in range(min(_CHUNK, total - chunk * _CHUNK)):
      yield {"inputs": inputs[row], "targets": targets[row]}


def _draw(
  config: Mqar, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws a chunk of inputs and targets: [_CHUNK, L] each."""
  pairs, first_value = config.num_pairs, config.vocab_size // 2
  keys = 1 + _choose(rng, np.ones(first_value - 1), pairs)
  values = first_value + _choose(
    rng, np.ones(config.vocab_size - first_value), pairs
  )
  space = config.length // 2 - pairs
  gaps = _choose(
    rng, np.arange(1, space + 1) ** (config.power - 1), config.queries
  )
  # The chosen keys are in random order, so the first are as good as any.
  places = 2 * (pairs + gaps)
  rows = np.arange(_CHUNK)[:, None]
  inputs = np.zeros((_CHUNK, config.length), np.int32)
  targets = np.zeros_like(inputs)
  inputs[:, 0 : 2 * pairs : 2] = keys
  inputs[:, 1 : 2 * pairs : 2] = values
  inputs[rows, places] = keys[:, : config.queries]
  targets[rows, places] = values[:, : config.queries]
  return inputs, targets


def _choose(
  rng: np.random.Generator, weights: np.ndarray, count: int
) -> np.ndarray:
  """Draws `count` of the places of `weights`, one after another, for each row.

  Exponential waiting times: who comes first among exponential clocks of these
  rates is drawn in proportion to the rate, and so is the next among the rest.

  Args:
    rng: the source of randomness.
    weights: positive, [n].
    count: how many to draw without repetition, at most n.

  Returns:
    Places in the order they were drawn: [_CHUNK, count].
  """
  clocks = rng.standard_exponential((_CHUNK, len(weights))) / weights
  return np.argsort(clocks, axis=1)[:, :count]


def _check(config: Mqar) -> None:
  check_at_least(
    1,
    num_pairs=config.num_pairs,
    train_examples=config.train_examples,
    validation_examples=config.validation_examples,
  )
  check_at_least(0, num_queries=config.num_queries, seed=config.seed)
  if config.num_queries > config.num_pairs:
    raise ValueError(
      f"num_queries={config.num_queries} is more than"
      f" num_pairs={config.num_pairs}: a key is asked at most once"
    )
  check_at_least(2 * (config.num_pairs + config.queries), length=config.length)
  check_at_least(2 * (config.num_pairs + 1), vocab_size=config.vocab_size)
