"""Tokens piece by piece, and where rows stop."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.models.decode.state import DecodeState
from jaxmodels.ops.engine import checks

__all__ = ["Generated", "Piece", "Stream", "collect"]

# Seconds that a piece may take before the next one is made shorter.
_PATIENCE = 0.2


class Piece(NamedTuple):
  """New tokens.

  Attributes:
    tokens: The new tokens of each row; none for a row that has ended.
    log_probs: The log probability of each of these tokens, by the model's
      logits: before the penalty, the temperature and the other fields of
      `Sampling`, and among the allowed tokens.
  """

  tokens: list[list[int]]
  log_probs: list[list[float]]


class Generated(NamedTuple):
  """What was drawn for a row.

  Attributes:
    tokens: The tokens. A stop token, or the token that completes a stop
      string, is the last one.
    log_probs: Their log probabilities; see `Piece`.
    reason: "stop" if a stop token or a stop string ended the row, or "length".
  """

  tokens: list[int]
  log_probs: list[float]
  reason: str


class Stream:
  """Draws tokens, and yields them piece by piece as soon as they are drawn.

  The first piece is a token of each row. Pieces grow as long as they take less
  than 0.2 seconds, so a slow model streams token by token, and a fast one
  draws many tokens per dispatch. The pieces do not change what is drawn.

  Attributes:
    state: The state after the latest piece. Each row has read all its tokens
      but the last one, so it can be read on or continued.
    reasons: Why each row has ended: "stop", "length", or None if it has not.
  """

  def __init__(
    self,
    decoder: Any,
    state: DecodeState,
    length: int | Sequence[int],
    *,
    stop_strings: Sequence[bytes | str] = (),
    decode: Callable[[list[int]], bytes] | None = None,
  ) -> None:
    """Checks that there is room for so many tokens.

    Args:
      decoder: A `Decoder`.
      state: The rows so far. It is donated.
      length: Most tokens to draw, for each row or for all rows.
      stop_strings: A row ends with the token that completes one of these in
        the bytes of its drawn tokens.
      decode: Returns the bytes of tokens. Stop strings need it.

    Raises:
      ValueError: An argument is wrong, or the model cannot read so many tokens.
    """
    count = state.token.size
    self._decoder, self.state = decoder, state
    self._left = np.array(np.broadcast_to(np.asarray(length, np.int64), count))
    checks.require(
      bool((self._left >= 0).all()),
      f"Decoder: length must be at least 0, got {length}",
    )
    self._stops = [
      stop.encode() if isinstance(stop, str) else bytes(stop)
      for stop in stop_strings
    ]
    checks.require(
      not self._stops or decode is not None, "Decoder: stop_strings need decode"
    )
    checks.require(all(self._stops), "Decoder: a stop string must not be empty")
    self._decode, self._texts = decode, [b""] * count
    lengths_differ = bool((self._left != self._left[0]).any())
    self._ends_differ = lengths_differ or bool(self._stops)
    self.reasons: list[str | None] = [
      None if left else "length" for left in self._left
    ]
    most = np.max(np.asarray(state.position) + self._left, initial=1)
    decoder.check_room(int(most))

  def __iter__(self) -> Iterator[Piece]:
    """Yields pieces until all rows have ended."""
    size = 1
    while any(reason is None for reason in self.reasons):
      start = time.perf_counter()
      yield self._piece(size)
      took = time.perf_counter() - start
      if took < _PATIENCE / 2:
        size = min(2 * size, self._decoder.piece)
      elif took > _PATIENCE:
        size = max(size // 2, 1)

  def _piece(self, size: int) -> Piece:
    active = np.array([reason is None for reason in self.reasons])
    limits = np.where(active, np.minimum(self._left, size), 0)
    # A stop string is found after the piece; then the piece is drawn again, up
    # to the stop, so that the state ends there too.
    before = jax.tree.map(jnp.copy, self.state) if self._stops else None
    self.state, tokens, log_probs = self._advance(self.state, limits)
    if before is not None:
      counts = self._counts_to_stops(tokens)
      if (counts < (tokens >= 0).sum(1)).any():
        self.state, tokens, log_probs = self._advance(before, counts)
    return self._finished(tokens, log_probs)

  def _advance(self, state: DecodeState, limits: np.ndarray) -> Any:
    return self._decoder.advance(state, limits, self._ends_differ)

  def _counts_to_stops(self, tokens: np.ndarray) -> np.ndarray:
    """How many tokens of each row belong to it; notes its text and its end."""
    counts = (tokens >= 0).sum(1)
    for row, own in enumerate(tokens):
      for place in range(counts[row]):
        assert self._decode is not None
        new = self._decode([int(own[place])])
        text = self._texts[row] + new
        # Only what the token adds can complete a stop string.
        if any(stop in text[-len(stop) - len(new) :] for stop in self._stops):
          self.reasons[row], counts[row] = "stop", place + 1
          break
        longest = max(map(len, self._stops))
        self._texts[row] = text[-longest:]
    return counts

  def _finished(self, tokens: np.ndarray, log_probs: np.ndarray) -> Piece:
    counts = (tokens >= 0).sum(1)
    self._left -= counts
    rows = [own[:n].tolist() for own, n in zip(tokens, counts, strict=True)]
    for row, own in enumerate(rows):
      if own and own[-1] in self._decoder.stop_tokens:
        self.reasons[row] = "stop"
      elif self.reasons[row] is None and not self._left[row]:
        self.reasons[row] = "length"
    shares = [x[:n].tolist() for x, n in zip(log_probs, counts, strict=True)]
    return Piece(rows, shares)


def collect(stream: Stream) -> list[Generated]:
  """Returns what a stream draws for each row."""
  count = len(stream.reasons)
  tokens: list[list[int]] = [[] for _ in range(count)]
  log_probs: list[list[float]] = [[] for _ in range(count)]
  for piece in stream:
    for row in range(count):
      tokens[row] += piece.tokens[row]
      log_probs[row] += piece.log_probs[row]
  # Every row has a reason once the stream has ended.
  reasons = [str(reason) for reason in stream.reasons]
  return list(map(Generated, tokens, log_probs, reasons))
