"""The decoder: it reads prompts and draws tokens in compiled loops."""

import functools
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.models.decode.arguments import check_tokens, mask_of
from jaxmodels.models.decode.chunks import chunk_sizes, chunks
from jaxmodels.models.decode.precision import widened
from jaxmodels.models.decode.sampling import (
  Sampling,
  draw,
  log_probabilities,
  scores,
)
from jaxmodels.models.decode.state import DecodeState, keys_of, rows_of, seen_in
from jaxmodels.models.decode.stream import Generated, Stream, collect
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.platform import platform

__all__ = ["Decoder"]


class Decoder:
  """Continues rows of tokens.

  Rows may have prompts of different lengths: a row is read in chunks that
  depend on its own length alone, and the state of a row stays as it is while
  other rows read. So no padding enters a state, and every mixer gives each row
  what it gives the row alone. A prompt of any length is read in the memory of
  one chunk, beside the state.

  A decoder compiles its programs once, for each number of rows.

  Attributes:
    model: A module with the call and the `init_state` of `LanguageModel`.
    variables: Its variables: "params" and the other collections.
    sampling: How tokens are drawn.
    stop_tokens: A row ends after it has drawn one of these tokens.
    vocab_size: V, the width of the logits.
    allowed: [V] bool, whether a token may be drawn; None for all.
    rows: The axes of the model's state that number the rows.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Any,
    sampling: Sampling = Sampling(),  # noqa: B008 (it is frozen)
    *,
    stop_tokens: Sequence[int] = (),
    allowed: int | Sequence[bool] | np.ndarray | None = None,
    chunk_size: int = 64,
    piece: int = 32,
    widen: bool | None = None,
  ) -> None:
    """Prepares the programs; they are compiled when they first run.

    Args:
      model: See above.
      variables: See above.
      sampling: See above.
      stop_tokens: See above.
      allowed: The tokens that may be drawn: a bool for each, or n for the
        tokens below n, where the vocabulary is padded; None for all.
      chunk_size: Tokens of a prompt that the model reads in one call.
      piece: Most tokens that are drawn in one dispatch.
      widen: Whether to compute in float32 where the model computes in fewer
        bits; None does so on a CPU, which takes several times as long to
        multiply one row by a matrix of bfloat16 as by one of float32.

    Raises:
      ValueError: An argument is wrong, or the model has no state.
    """
    for name, value in (("chunk_size", chunk_size), ("piece", piece)):
      checks.require(
        value >= 1, f"Decoder: {name} must be at least 1, got {value}"
      )
    if platform() == "cpu" if widen is None else widen:
      model, variables = widened(model, variables)
    self.model = model
    self.variables = jax.device_put(variables)
    self.sampling = sampling
    self.stop_tokens = tuple(int(token) for token in stop_tokens)
    self.rows = rows_of(model)
    self.vocab_size = self._vocabulary()
    self.allowed = mask_of(allowed, self.vocab_size)
    self._sizes = chunk_sizes(chunk_size)
    self._piece = piece
    self._most_read = 1
    self._read_program = jax.jit(self._read, donate_argnums=1)
    self._draw_program = jax.jit(self._draw, donate_argnums=2, static_argnums=4)

  def start(
    self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None = None
  ) -> DecodeState:
    """Reads prompts from the zero state.

    Args:
      prompts: The tokens of each row, at least one per row.
      seeds: The seed of each row's draws; None is 0, 1, 2, and so on.

    Raises:
      ValueError: A prompt is empty or has a wrong token, or the model cannot
        read so many tokens.
    """
    count = len(prompts)
    checks.require(count > 0, "Decoder: prompts must not be empty")
    check_tokens(prompts, self.vocab_size)
    for row in prompts:
      checks.require(
        len(row) > 0, "Decoder: the prompt is empty, and gives nothing to read"
      )
    seeds = range(count) if seeds is None else seeds
    checks.require(
      len(seeds) == count,
      f"Decoder: {count} prompts need as many seeds, got {len(seeds)}",
    )
    checks.require(
      count == 1 or min(self.rows.axes, default=0) >= 0,
      "Decoder: a leaf of the model's state has no axis of the rows, so "
      "prompts must be read one at a time",
    )
    first = np.asarray([row[0] for row in prompts], np.int32)
    zeros = np.zeros(count, np.int32)
    state = DecodeState(
      self._zeros(count),
      jnp.asarray(first),
      jnp.asarray(zeros),
      jnp.asarray(zeros.copy()),
      keys_of(seeds),
      jnp.asarray(seen_in([row[:1] for row in prompts], self.vocab_size)),
    )
    return self.read(state, [row[1:] for row in prompts])

  def read(
    self, state: DecodeState, prompts: Sequence[Sequence[int]]
  ) -> DecodeState:
    """Reads more tokens, which may be of different numbers, or none.

    Args:
      state: The rows so far. It is donated: use the result in its place.
      prompts: The further tokens of each row.

    Raises:
      ValueError: The number of prompts is not that of the rows, a token is
        wrong, or the model cannot read so many tokens.
    """
    count = state.token.size
    checks.require(
      len(prompts) == count,
      f"Decoder: the state has {count} rows, got {len(prompts)} prompts",
    )
    check_tokens(prompts, self.vocab_size)
    lengths = np.asarray([len(row) for row in prompts], np.int32)
    if not lengths.any():
      return state
    self.check_room(int(np.max(np.asarray(state.position) + lengths)))
    # The last token of a row is not read yet.
    pending = np.asarray(state.token)
    rows = [
      np.asarray([token, *row], np.int32)
      for token, row in zip(pending, prompts, strict=True)
    ]
    model = state.model
    for tokens, take in chunks(rows, lengths, self._sizes):
      repeats = np.int32(take.any(1).sum())
      model = self._read_program(self.variables, model, tokens, take, repeats)
    return DecodeState(
      model,
      jnp.asarray(np.asarray([row[-1] for row in rows], np.int32)),
      state.position + lengths,
      state.drawn,
      state.key,
      state.seen | seen_in(prompts, self.vocab_size),
    )

  def stream(
    self, state: DecodeState, length: int | Sequence[int], **stops: Any
  ) -> Stream:
    """Draws tokens piece by piece.

    Args:
      state: The rows so far. It is donated: use `Stream.state` in its place.
      length: Most tokens to draw, for each row or for all rows.
      **stops: `stop_strings` and `decode` of `Stream`.
    """
    return Stream(self, state, length, **stops)

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    length: int | Sequence[int],
    seeds: Sequence[int] | None = None,
    **stops: Any,
  ) -> list[Generated]:
    """Reads prompts, and returns what follows each.

    Args:
      prompts: See `start`.
      length: See `stream`.
      seeds: See `start`.
      **stops: See `stream`.
    """
    return collect(self.stream(self.start(prompts, seeds), length, **stops))

  def take(self, state: DecodeState, rows: Sequence[int]) -> DecodeState:
    """The given rows of a state, in their order; a row may occur often."""
    index = jnp.asarray(np.asarray(rows, np.int32))
    model = self.rows.take(state.model, index)
    rest = [leaf[index] for leaf in state[1:]]
    return DecodeState(model, *rest)

  def reseed(self, state: DecodeState, seeds: Sequence[int]) -> DecodeState:
    """The state with new seeds, as if no token had been drawn."""
    drawn = jnp.zeros_like(state.drawn)
    return state._replace(key=keys_of(seeds), drawn=drawn)

  def shapes(self, rows: int) -> DecodeState:
    """The shapes and dtypes of a state of that many rows."""
    model = jax.eval_shape(lambda: self._init_state(rows))
    # Only their shapes and dtypes are read, as of arrays.
    numbers: Any = jax.ShapeDtypeStruct((rows,), np.int32)
    key: Any = jax.ShapeDtypeStruct((rows, 2), np.uint32)
    seen: Any = jax.ShapeDtypeStruct((rows, self.vocab_size), bool)
    return DecodeState(model, numbers, numbers, numbers, key, seen)

  def advance(
    self,
    state: DecodeState,
    limits: np.ndarray,
    ends_differ: bool = False,
  ) -> tuple[DecodeState, np.ndarray, np.ndarray]:
    """Draws up to `limits` [B] tokens, and at most a piece, in one dispatch.

    Args:
      state: The rows so far. It is donated.
      limits: Most tokens of each row.
      ends_differ: Whether rows may end apart in a later call. It avoids a
        compilation in the middle of a stream, and changes no result.

    Returns:
      The state; the tokens [B, piece], -1 after the last one of a row; and
      their log probabilities [B, piece].
    """
    limits = np.asarray(limits, np.int32)
    # If no row can end before another, the loop ends with all of them.
    # Otherwise the rows that have ended keep their states, and each token costs
    # one more pass over the states.
    ends_differ |= bool(self.stop_tokens) or bool((limits != limits[0]).any())
    state, tokens, log_probs = self._draw_program(
      self.variables,
      self.allowed,
      state,
      limits,
      ends_differ and limits.size > 1,
    )
    return state, np.asarray(tokens), np.asarray(log_probs)

  @property
  def piece(self) -> int:
    """Most tokens of each row that one dispatch draws."""
    return self._piece

  def check_room(self, tokens: int) -> None:
    """Checks that the model can read that many tokens.

    Raises:
      ValueError: A mixer has a bound on its context, and it is lower.
    """
    if tokens <= self._most_read:
      return
    row = jax.ShapeDtypeStruct((1, tokens), np.int32)
    state = jax.eval_shape(lambda: self._init_state(1))
    try:
      jax.eval_shape(self.model.apply, self.variables, row, state)
    except ValueError as error:
      raise ValueError(
        f"the model cannot read {tokens} tokens, the prompt and what is to be "
        f"generated: {error}"
      ) from error
    self._most_read = tokens

  def _init_state(self, count: int) -> Any:
    return cast(Any, self.model).init_state(count)

  def _zeros(self, count: int) -> Any:
    # A model may use one array for several leaves, but donation needs a buffer
    # per leaf.
    return jax.tree.map(jnp.copy, self._init_state(count))

  def _vocabulary(self) -> int:
    row = jax.ShapeDtypeStruct((1, 1), np.int32)
    state = jax.eval_shape(lambda: self._init_state(1))
    logits, _ = jax.eval_shape(self.model.apply, self.variables, row, state)
    return logits.shape[-1]

  def _read(
    self,
    variables: Any,
    state: Any,
    tokens: jax.Array,
    take: jax.Array,
    repeats: jax.Array,
  ) -> Any:
    """Reads `repeats` chunks [B, C] of tokens [N, B, C], where `take` [N, B].

    The logits are not used, so their products are not in the program.
    """

    def body(i: jax.Array, state: Any) -> Any:
      _, after = self.model.apply(variables, tokens[i], state)
      return (
        after if take.shape[1] == 1 else self.rows.where(take[i], after, state)
      )

    return lax.fori_loop(0, repeats, body, state)

  def _draw(
    self,
    variables: Any,
    allowed: jax.Array | None,
    state: DecodeState,
    limits: jax.Array,
    ends_differ: bool,
  ) -> tuple[DecodeState, jax.Array, jax.Array]:
    """Draws up to `limits` [B] tokens of each row; see `advance`.

    `ends_differ` says that a row may end before another.
    """
    count = state.token.size
    tokens = jnp.full((count, self._piece), -1, jnp.int32)
    log_probs = jnp.zeros((count, self._piece), jnp.float32)

    def condition(carry: Any) -> jax.Array:
      return (carry[0] < self._piece) & jnp.any(carry[2])

    def body(carry: Any) -> Any:
      i, before, active, tokens, log_probs = carry
      after, log_prob = self._step(variables, allowed, before)
      if ends_differ:
        after = self._where(active, after, before)
      column = jnp.where(active, after.token, -1)
      tokens = lax.dynamic_update_slice(tokens, column[:, None], (0, i))
      log_probs = lax.dynamic_update_slice(
        log_probs, jnp.where(active, log_prob, 0)[:, None], (0, i)
      )
      active &= i + 1 < limits
      for stop in self.stop_tokens:
        active &= column != stop
      return i + 1, after, active, tokens, log_probs

    carry = (jnp.int32(0), state, limits > 0, tokens, log_probs)
    _, state, _, tokens, log_probs = lax.while_loop(condition, body, carry)
    return state, tokens, log_probs

  def _where(
    self, take: jax.Array, new: DecodeState, old: DecodeState
  ) -> DecodeState:
    """The rows of `new` where `take` [B] is true, else those of `old`."""
    model = self.rows.where(take, new.model, old.model)
    numbers = (
      jnp.where(take.reshape(-1, *[1] * (a.ndim - 1)), a, b)
      for a, b in zip(new[1:], old[1:], strict=True)
    )
    return DecodeState(model, *numbers)

  def _step(
    self, variables: Any, allowed: jax.Array | None, state: DecodeState
  ) -> tuple[DecodeState, jax.Array]:
    """Reads the last token of each row and draws the next one."""
    logits, model = self.model.apply(
      variables, state.token[:, None], state.model
    )
    logits = logits[:, -1]
    token = jax.vmap(functools.partial(self._draw_one, allowed))(
      logits, state.seen, state.key, state.drawn, state.token
    )
    rows = jnp.arange(token.size)
    after = DecodeState(
      model,
      token,
      state.position + 1,
      state.drawn + 1,
      state.key,
      state.seen.at[rows, token].set(True),
    )
    return after, log_probabilities(logits, token, allowed)

  def _draw_one(
    self,
    allowed: jax.Array | None,
    logits: jax.Array,
    seen: jax.Array,
    key: jax.Array,
    drawn: jax.Array,
    last: jax.Array,
  ) -> jax.Array:
    values = scores(logits, seen, allowed, self.sampling)
    own = jax.random.wrap_key_data(key, impl="threefry2x32")
    # The last token separates the draws of two prompts with one seed.
    own = jax.random.fold_in(jax.random.fold_in(own, drawn), last)
    return draw(values, own, self.sampling)
