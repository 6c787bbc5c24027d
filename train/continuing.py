"""A run's model and codec together: text in, text out."""

import codecs
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxmodels.interop.context import with_max_length
from jaxmodels.models import LanguageModel, without_lora
from jaxmodels.models.decode import (
  Decoder,
  DecodeState,
  Sampling,
  Stream,
  load_state,
  save_state,
)
from jaxmodels.models.decode.stream import collect
from train.config import Config, Sample
from train.data import Codec
from train.data.opening import open_codec
from train.errors import UserError, reason

__all__ = ["Extras", "Session", "as_text"]


def as_text(
  codec: Codec, tokens: Iterable[int], stops: Sequence[bytes] = ()
) -> Iterator[str]:
  """Decodes a stream of tokens, each character as soon as it is whole.

  Args:
    codec: Turns tokens into bytes.
    tokens: The stream.
    stops: The text ends before the first of these. Bytes that may begin one
      are held back until the next token.

  Yields:
    Text. A byte that can belong to no character becomes U+FFFD.
  """
  decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
  held, longest = b"", max(map(len, stops), default=1)
  for token in tokens:
    held += codec.decode([token])
    place = min((p for s in stops if (p := held.find(s)) >= 0), default=-1)
    # A caller's stream goes on to its end, where its state is.
    if place >= 0:
      for _ in tokens:
        pass
      held = held[:place]
      break
    ready = max(len(held) - longest + 1, 0)
    text = decoder.decode(held[:ready])
    held = held[ready:]
    if text:
      yield text
  rest = decoder.decode(held, final=True)
  if rest:
    yield rest


@dataclasses.dataclass(frozen=True)
class Extras:
  """What the command adds to the settings of a `Sample`.

  Attributes:
    min_p: See `Sampling`.
    repetition_penalty: See `Sampling`.
    stop: Strings at which the text ends; they are not printed.
    load_state: A file to continue from, or None.
    save_state: A file for the state after the text, or None.
    owner: The run and step, for messages about such files.
    max_length: Most tokens of a text, for layers of full attention: their
      caches have room for so many. A lower bound of the model itself holds.
  """

  min_p: float | None = None
  repetition_penalty: float = 1.0
  stop: tuple[str, ...] = ()
  load_state: str | None = None
  save_state: str | None = None
  owner: str = ""
  max_length: int = 8192


class Session:
  """A model with the codec of its data."""

  def __init__(
    self,
    config: Config,
    variables: Any,
    sample: Sample,
    vocab_size: object,
    extras: Extras,
  ) -> None:
    self._codec = open_codec(config.data, vocab_size)
    self._sample, self._extras = sample, extras
    self._stops = tuple(
      stop.encode("utf-8", "surrogateescape") for stop in extras.stop
    )
    sampling = Sampling(
      sample.temperature,
      sample.top_k,
      sample.top_p,
      extras.min_p,
      extras.repetition_penalty,
    )
    known = getattr(self._codec, "vocab_size", vocab_size)
    # A model may have more tokens than its data: the rest are padding.
    model, variables = without_lora(config.model, variables)
    if isinstance(model, LanguageModel):
      model = with_max_length(model, extras.max_length)
    width = getattr(model, "vocab_size", None)
    allowed = None
    if isinstance(known, int) and isinstance(width, int) and 0 < known <= width:
      allowed = known
    self._decoder = Decoder(model, variables, sampling, allowed=allowed)

  def stream(self, prompts: Sequence[bytes], seed: int | None) -> Stream:
    """Reads the prompts, after the state of a file if there is one."""
    loaded = self._load(len(prompts))
    rows = [self._encode(prompt, loaded is not None) for prompt in prompts]
    length, decoder = self._sample.length, self._decoder
    if loaded is None:
      decoder.check_room(max(map(len, rows)) + length - 1)
      seeds = [(seed or 0) + i for i in range(len(rows))]
      state = decoder.start(rows, seeds)
    else:
      state, is_repeated = loaded
      if seed is not None or is_repeated:
        seeds = [(seed or 0) + i for i in range(state.token.size)]
        state = decoder.reseed(state, seeds)
      state = decoder.read(state, rows or [[]] * state.token.size)
    return decoder.stream(
      state, length, stop_strings=self._stops, decode=self._codec.decode
    )

  def text(self, stream: Stream) -> Iterator[str]:
    """Yields the text of the first row, without a stop string."""
    tokens = (token for piece in stream for token in piece.tokens[0])
    return as_text(self._codec, tokens, self._stops)

  def lines(self, prompts: Sequence[bytes], stream: Stream) -> Iterator[str]:
    """Yields a line of JSON for each row."""
    rows = collect(stream)
    for i, row in enumerate(rows):
      prompt = prompts[i].decode(errors="replace") if prompts else ""
      text = "".join(as_text(self._codec, row.tokens, self._stops))
      yield json.dumps({"prompt": prompt, "text": text, **row._asdict()})

  def save(self, stream: Stream) -> None:
    """Writes the state after a stream, if a file is wanted."""
    path, owner = self._extras.save_state, self._extras.owner
    if path is None:
      return
    try:
      save_state(path, self._decoder, stream.state, owner)
    except OSError as error:
      raise UserError(f"cannot write {path}: {reason(error)}") from error

  def _load(self, count: int) -> tuple[DecodeState, bool] | None:
    """The state of the file, and whether its one row became several."""
    path = self._extras.load_state
    if path is None:
      return None
    try:
      state = load_state(path, self._decoder)
    except OSError as error:
      raise UserError(f"cannot read {path}: {reason(error)}") from error
    if state.token.size == 1 and count > 1:
      return self._decoder.take(state, [0] * count), True
    return state, False

  def _encode(self, prompt: bytes, is_continued: bool) -> list[int]:
    try:
      tokens = self._codec.encode(prompt)
      if not is_continued:
        return tokens
      # A document begins with tokens of its own, which its middle lacks.
      opening = self._codec.encode(b"")
    except ValueError as error:
      raise UserError(f"the prompt cannot be encoded: {error}") from error
    has_opening = tokens[: len(opening)] == opening
    return tokens[len(opening) :] if has_opening else tokens
