"""Multi-query associative recall: looking up values by keys seen earlier."""

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

# Examples drawn at a time: enough to vectorise, few enough to save memory.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class Mqar:
  """Multi-query associative recall (Arora et al., 2023, arXiv:2312.04927).

  A row shows `num_pairs` keys, each followed by its value, then repeats some of
  the keys as queries. The target at a query is the value of its key; only these
  targets have weight. As in the paper's reference code:

    k1 v1 k2 v2 ... | 0 0 k2 0 k1 0 0 0 ...     (inputs)
                    | 0 0 v2 0 v1 0 0 0 ...     (targets)

  - Token 0 is the fill token. Keys are drawn from [1, vocab_size / 2) and
    values from [vocab_size / 2, vocab_size), both without repetition.
  - Queries are at even distances 2g after the pairs. The g of a row are drawn
    without repetition, with probability proportional to
    (g + 1) ** (power - 1): most queries come soon, a few late, as in natural
    text.
  - The value does not follow its query in the inputs.

  One difference from the reference: a row may query fewer than all keys.

  A `tfds` builder generates the examples once and stores them in `data_dir`,
  in a folder whose name contains all settings.

  Attributes:
    length: tokens per row, L; at least two per pair and per query.
    vocab_size: number of tokens: the fill token, keys and values.
    num_pairs: pairs of key and value per row.
    num_queries: queries per row; 0 to query all keys.
    power: exponent a of the power law; 1 is uniform.
    train_examples: number of training examples.
    validation_examples: number of validation examples.
    seed: non-negative; determines the examples.
    data_dir: the folder to store the examples in.
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
    """Opens a split; generates the examples first if they are missing.

    Args:
      split: "train" or "validation".

    Returns:
      The data set.

    Raises:
      ValueError: if a setting is out of range, or if the pairs and queries do
        not fit into a row.
    """
    check_split(split)
    _check(self)
    # tfds is slow to import, so we import it only to open the data.
    from train.data.tasks import builder

    return RecallDataset(builder.read(self, split), self.vocab_size)

  def codec(self, vocab_size: int | None = None) -> NumberCodec:
    """Returns the codec between tokens and decimal numbers; opens no files."""
    return NumberCodec(self.vocab_size)

  def read_only(self) -> InMemory:
    """Returns settings that generate the examples in memory."""
    return InMemory(self)

  @property
  def queries(self) -> int:
    """Number of queries per row."""
    return self.num_queries or self.num_pairs

  def settings(self) -> dict[str, Any]:
    """Returns every setting that affects the examples."""
    fields = dataclasses.asdict(self)
    del fields["data_dir"]
    return {**fields, "num_queries": self.queries}

  def generate(self, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples of a split: `inputs` and `targets`, int32 [L]."""
    return generate(self, split)


class InMemory(NamedTuple):
  """Opens the examples of `Mqar` without files, in the order of generation.

  Stored examples have another order, that of tfds.
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
  """Yields the examples of a split: `inputs` and `targets`, int32 [L]."""
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
  # The keys are in random order, so querying the first ones is random, too.
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
  """Draws `count` indices of `weights` without repetition, for each row.

  Uses exponential waiting times: the index with the shortest time is drawn with
  probability proportional to its weight, and so is the next among the rest.

  Args:
    rng: the source of randomness.
    weights: positive, [n].
    count: number of indices to draw, at most n.

  Returns:
    Indices in the order of drawing: [_CHUNK, count].
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
      f" num_pairs={config.num_pairs}: a row queries each key at most once"
    )
  check_at_least(2 * (config.num_pairs + config.queries), length=config.length)
  check_at_least(2 * (config.num_pairs + 1), vocab_size=config.vocab_size)
