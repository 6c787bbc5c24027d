"""Recall: tasks whose answer was shown earlier in the row."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from train.data.dataset import check_at_least
from train.data.tasks.task import SequenceTask

__all__ = [
  "FuzzyRecall",
  "InductionHeads",
  "Needle",
  "NoisyRecall",
  "SelectiveCopying",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveCopying(SequenceTask):
  """Copying `count` symbols that lie at random places in noise, in their order.

  Token 0 is noise, and token 1 asks for the next symbol; symbols follow. The
  last `count` tokens of a row ask, and the others hold the symbols and noise.
  Gu & Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.1; Jing et al. 2019,
  arXiv:1706.02761. A layer that treats every token alike cannot solve it.

  Attributes:
    count: The number of symbols to copy.
    alphabet: The number of different symbols.
  """

  name: ClassVar[str] = "selective_copying"

  length: int = 80
  count: int = 8
  alphabet: int = 16

  @property
  def vocab_size(self) -> int:
    """Noise, the question, and the symbols."""
    return 2 + self.alphabet

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, count=self.count, alphabet=self.alphabet)
    check_at_least(2 * self.count, length=self.length)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    shown = self.length - self.count
    symbols = 2 + rng.integers(0, self.alphabet, self.count)
    places = np.sort(rng.choice(shown, self.count, replace=False))
    inputs = np.zeros(self.length, np.int32)
    inputs[places] = symbols
    inputs[shown:] = 1
    targets = np.zeros_like(inputs)
    targets[shown:] = symbols
    return _asked(inputs, targets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InductionHeads(SequenceTask):
  """Recalling the token that followed a special one, at the end of the row.

  Token 0 is special. It is at a random place, and is the last token of the row;
  all others are random. The target of the last token is the one that followed
  the special token before. Olsson et al. 2022, arXiv:2209.11895; in this form
  Dao et al. 2022 (H3), arXiv:2212.14052, and Gu & Dao 2023, arXiv:2312.00752,
  who train at a length of 256 and test at up to a million.

  Attributes:
    alphabet: The number of other tokens.
  """

  name: ClassVar[str] = "induction_heads"

  length: int = 256
  alphabet: int = 15

  @property
  def vocab_size(self) -> int:
    """The special token and the others."""
    return 1 + self.alphabet

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(2, alphabet=self.alphabet)
    check_at_least(3, length=self.length)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    inputs = 1 + rng.integers(0, self.alphabet, self.length)
    place = int(rng.integers(0, self.length - 2))
    inputs[[place, -1]] = 0
    targets = np.zeros_like(inputs)
    targets[-1] = inputs[place + 1]
    return _asked(inputs, targets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needle(SequenceTask):
  """Retrieving several tokens in order from a long row of other tokens.

  Token 0 marks the needle. It stands once at a random place, before `width`
  random tokens, and again after the haystack, where the model writes the needle
  (with the right tokens as inputs). The passkey task of Mohtashami & Jaggi
  2023, arXiv:2305.16300.

  Attributes:
    width: The number of tokens of the needle.
    alphabet: The number of tokens of needle and haystack.
  """

  name: ClassVar[str] = "needle"

  length: int = 256
  width: int = 5
  alphabet: int = 15

  @property
  def vocab_size(self) -> int:
    """The mark and the tokens."""
    return 1 + self.alphabet

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, width=self.width)
    check_at_least(2, alphabet=self.alphabet)
    check_at_least(2 * self.width + 1, length=self.length)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    inputs = 1 + rng.integers(0, self.alphabet, self.length + 1)
    haystack = self.length - self.width
    place = int(rng.integers(0, haystack - self.width))
    inputs[[place, haystack]] = 0
    inputs[haystack + 1 :] = inputs[place + 1 : place + 1 + self.width]
    targets = np.zeros(self.length, np.int32)
    targets[haystack:] = inputs[haystack + 1 :]
    return _asked(inputs[:-1], targets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyRecall(SequenceTask):
  """Recalling values by keys, between which there is noise.

  A row is a list of pairs of a key and its value; a key has the same value in
  the whole row, and keys return. The target at a key that was shown before is
  its value. Noise tokens stand between pairs. Poli et al. 2024 (MAD),
  arXiv:2403.17844; without noise it is their in-context recall.

  Attributes:
    keys: The number of keys, tokens 0 to keys - 1.
    values: The number of values, the next tokens.
    noise_tokens: The number of noise tokens, the last ones.
    noise: The fraction of tokens that are noise, in [0, 1).
  """

  name: ClassVar[str] = "noisy_recall"

  length: int = 128
  keys: int = 8
  values: int = 8
  noise_tokens: int = 16
  noise: float = 0.2

  @property
  def vocab_size(self) -> int:
    """Keys, values and noise."""
    return self.keys + self.values + self.noise_tokens

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, keys=self.keys, values=self.values)
    check_at_least(1, noise_tokens=self.noise_tokens)
    if not 0 <= self.noise < 1:
      raise ValueError(f"noise must be in [0, 1), got {self.noise}")

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    value_of = self.keys + rng.integers(0, self.values, self.keys)
    first_noise = self.keys + self.values
    # So many noise tokens per pair make the fraction `noise` of all tokens.
    stop = 1 / (1 + 2 * self.noise / (1 - self.noise))
    tokens: list[int] = []
    weights: list[int] = []
    seen: set[int] = set()
    while len(tokens) <= self.length:
      for _ in range(rng.geometric(stop) - 1):
        tokens.append(first_noise + int(rng.integers(0, self.noise_tokens)))
        weights.append(0)
      key = int(rng.integers(0, self.keys))
      tokens += [key, int(value_of[key])]
      weights += [key in seen, 0]
      seen.add(key)
    return _next_tokens(tokens, weights, self.length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuzzyRecall(SequenceTask):
  """Recalling values by keys, both of which are several tokens long.

  As `NoisyRecall` without noise, but a key and a value are one to `widest`
  tokens. No key is the beginning of another one. All tokens of a value count.
  Poli et al. 2024 (MAD), arXiv:2403.17844.

  Attributes:
    pairs: The number of keys of a row.
    key_tokens: The number of different tokens of keys, the first ones.
    value_tokens: The number of different tokens of values, the next ones.
    widest: The most tokens of a key and of a value.
  """

  name: ClassVar[str] = "fuzzy_recall"

  length: int = 128
  pairs: int = 6
  key_tokens: int = 8
  value_tokens: int = 8
  widest: int = 3

  @property
  def vocab_size(self) -> int:
    """The tokens of keys and of values."""
    return self.key_tokens + self.value_tokens

  def check(self) -> None:
    """See `SequenceTask.check`."""
    check_at_least(1, pairs=self.pairs, widest=self.widest)
    check_at_least(1, value_tokens=self.value_tokens)
    # Then there always is a key that begins with no other key.
    check_at_least(self.pairs, key_tokens=self.key_tokens)

  def row(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a row; see `SequenceTask.row`."""
    keys: list[list[int]] = []
    while len(keys) < self.pairs:
      key = self._word(rng, 0, self.key_tokens)
      if not any(_begin_alike(key, other) for other in keys):
        keys.append(key)
    first_value = self.key_tokens
    values = [self._word(rng, first_value, self.value_tokens) for _ in keys]
    tokens: list[int] = []
    weights: list[int] = []
    seen: set[int] = set()
    while len(tokens) <= self.length:
      pair = int(rng.integers(0, self.pairs))
      key, value = keys[pair], values[pair]
      known = [int(pair in seen)] * len(value)
      # The last token of the key predicts the first of the value, and so on.
      tokens += key + value
      weights += [0] * (len(key) - 1) + known + [0]
      seen.add(pair)
    return _next_tokens(tokens, weights, self.length)

  def _word(self, rng: np.random.Generator, first: int, size: int) -> list[int]:
    width = int(rng.integers(1, self.widest + 1))
    return [first + int(x) for x in rng.integers(0, size, width)]


def _begin_alike(a: list[int], b: list[int]) -> bool:
  shorter = min(len(a), len(b))
  return a[:shorter] == b[:shorter]


def _next_tokens(
  tokens: list[int], weights: list[int], length: int
) -> dict[str, np.ndarray]:
  """The row that predicts each next token, of which some count."""
  row = np.array(tokens[: length + 1], np.int32)
  return {
    "inputs": row[:-1],
    "targets": row[1:],
    "weights": np.array(weights[:length], np.float32),
  }


def _asked(inputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
  """The row whose targets count where they are not 0."""
  return {
    "inputs": inputs.astype(np.int32),
    "targets": targets.astype(np.int32),
    "weights": (targets != 0).astype(np.float32),
  }
