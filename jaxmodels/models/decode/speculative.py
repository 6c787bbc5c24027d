"""Speculative decoding: a small model proposes, the large model decides."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.models.decode.decoder import Decoder
from jaxmodels.models.decode.sampling import (
  draw,
  log_probabilities,
  log_shares,
  scores,
)
from jaxmodels.models.decode.state import DecodeState
from jaxmodels.models.decode.stream import Generated
from jaxmodels.ops.engine import checks

__all__ = ["Speculative"]

# What a random number is for: each use has its own key.
_PROPOSE, _ACCEPT, _REPLACE = range(3)


class _Rows(NamedTuple):
  """The state of B rows between two rounds.

  Attributes:
    large: The state of the large model before the pending tokens.
    small: The state of the small model after all tokens but the last one.
    pending: [B, 2 C] int32, the tokens that the large model has not read for
      good, and zeros.
    waiting: [B] int32, how many are pending: 1 to C between rounds.
    drawn: [B] int32, the tokens that were drawn.
    key: [B, 2] uint32, the random key of each row.
    seen: [B, V] bool, the tokens that occur in each row.
  """

  large: Any
  small: Any
  pending: jax.Array
  waiting: jax.Array
  drawn: jax.Array
  key: jax.Array
  seen: jax.Array


class Speculative:
  """Draws from a large model, with fewer of its calls than tokens.

  In a round, the small model draws `block` tokens one by one, and the large
  model reads all of them in one call. Token by token, with p and q the two
  distributions, a proposal x is kept with the probability min(1, p(x) / q(x)).
  The first that is not is replaced by a draw from max(p - q, 0), normalised;
  if all are kept, a draw from p follows. So the tokens have the distribution
  of the large model alone (Leviathan et al. 2022, arXiv:2211.17192; Chen et
  al. 2023, arXiv:2302.01318); with temperature 0 they are its tokens.

  A state cannot be cut back to the tokens that were kept. The large model
  therefore starts each round from an older state and reads the kept tokens
  since then again, in the same call as the proposals: at most C = block + 1 of
  them, then they are read for good. The small model keeps its states of the
  round, and the one after the last kept token is selected.

  Attributes:
    calls: Calls of the large model in the latest `generate`, per row of the
      batch: its rounds.
    kept: Proposals that were kept in the latest `generate`, as a fraction.
  """

  def __init__(self, large: Decoder, small: Decoder, block: int = 4) -> None:
    """Pairs two decoders; the sampling of `large` holds for both.

    Args:
      large: The decoder of the model to draw from.
      small: The decoder of the model that proposes.
      block: Proposals per round.

    Raises:
      ValueError: The vocabularies differ, or `block` is below 1.
    """
    checks.require(block >= 1, f"Speculative: block must be >= 1, got {block}")
    sizes = large.vocab_size, small.vocab_size
    checks.require(
      sizes[0] == sizes[1],
      f"Speculative: the models must have one vocabulary, got {sizes[0]} and "
      f"{sizes[1]} tokens",
    )
    self._large, self._small, self._block = large, small, block
    self._span = block + 1
    self.calls = 0
    self.kept = 0.0
    self._round = jax.jit(self._run_round, donate_argnums=2)

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    length: int,
    seeds: Sequence[int] | None = None,
  ) -> list[Generated]:
    """Reads prompts, and returns what follows each; see `Decoder.generate`."""
    count = len(prompts)
    state = self._start(prompts, seeds)
    tokens: list[list[int]] = [[] for _ in range(count)]
    log_probs: list[list[float]] = [[] for _ in range(count)]
    reasons = ["length" if length == 0 else ""] * count
    longest = max(len(row) for row in prompts)
    for decoder in (self._large, self._small):
      decoder.check_room(longest + length + 2 * self._span)
    self.calls, kept, proposed = 0, 0, 0
    while not all(reasons):
      state, new, shares = self._round(
        (self._large.variables, self._small.variables),
        self._large.allowed,
        state,
      )
      self.calls += 1
      new, shares = np.asarray(new), np.asarray(shares)
      for row in range(count):
        if reasons[row]:
          continue
        own = new[row][new[row] >= 0]
        kept, proposed = kept + own.size - 1, proposed + self._block
        tokens[row] += own.tolist()
        log_probs[row] += shares[row][: own.size].tolist()
        reasons[row] = self._ended(tokens[row], log_probs[row], length)
    self.kept = kept / max(proposed, 1)
    return list(map(Generated, tokens, log_probs, reasons))

  def _ended(
    self, tokens: list[int], log_probs: list[float], length: int
  ) -> str:
    """Why a row has ended, or ""; cuts what follows its end."""
    stops = self._large.stop_tokens
    end = next((i + 1 for i, t in enumerate(tokens) if t in stops), None)
    reason = "stop" if end is not None and end <= length else ""
    if not reason and len(tokens) >= length:
      reason, end = "length", length
    if reason:
      del tokens[end:], log_probs[end:]
    return reason

  def _start(
    self, prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None
  ) -> _Rows:
    large: DecodeState = self._large.start(prompts, seeds)
    small: DecodeState = self._small.start(prompts, seeds)
    pending = jnp.zeros((len(prompts), 2 * self._span), jnp.int32)
    return _Rows(
      large.model,
      small.model,
      pending.at[:, 0].set(large.token),
      jnp.ones_like(large.token),
      large.drawn,
      large.key,
      large.seen,
    )

  def _run_round(
    self, variables: Any, allowed: jax.Array | None, state: _Rows
  ) -> tuple[_Rows, jax.Array, jax.Array]:
    """One round: the state, the new tokens [B, block + 1], and their log p.

    A row's new tokens come first, and -1 after them.
    """
    proposals, q, smalls = self._propose(variables[1], allowed, state)
    rows = jnp.arange(state.waiting.size)[:, None]
    places = state.waiting[:, None] + jnp.arange(self._block)[None]
    pending = state.pending.at[rows, places].set(proposals)
    # Zeros follow the proposals, and no earlier token sees them.
    read = pending[:, : self._span + self._block]
    logits, _ = self._large.model.apply(variables[0], read, state.large)
    places = state.waiting[:, None] - 1 + jnp.arange(self._span)[None]
    logits = logits[rows, places]
    decide = jax.vmap(functools.partial(self._decide, allowed))
    new, kept, seen = decide(
      logits, proposals, q, state.seen, state.key, state.drawn
    )
    shares = jax.vmap(lambda x, y: log_probabilities(x, y, allowed), (1, 1), 1)(
      logits, jnp.maximum(new, 0)
    )
    places = state.waiting[:, None] + jnp.arange(self._span)[None]
    pending = pending.at[rows, places].set(jnp.maximum(new, 0))
    state = _Rows(
      state.large,
      self._small.rows.pick(smalls, kept),
      pending,
      state.waiting + kept + 1,
      state.drawn + kept + 1,
      state.key,
      seen,
    )
    return self._read_for_good(variables[0], state), new, shares

  def _propose(
    self, variables: Any, allowed: jax.Array | None, state: _Rows
  ) -> tuple[jax.Array, jax.Array, Any]:
    """The proposals [B, k], log q [B, k, V], and k + 1 states, stacked."""
    rows = jnp.arange(state.waiting.size)

    def step(carry: Any, i: jax.Array) -> Any:
      model, token, seen = carry
      logits, model = self._small.model.apply(variables, token[:, None], model)
      values = self._scores(logits[:, -1], seen, allowed)
      keys = _keys(state.key, state.drawn + i, _PROPOSE)
      sampling = self._large.sampling
      token = jax.vmap(lambda v, k: draw(v, k, sampling))(values, keys)
      q = jax.vmap(lambda v: log_shares(v, sampling))(values)
      seen = seen.at[rows, token].set(True)
      return (model, token, seen), (token, q, model)

    last = state.pending[rows, state.waiting - 1]
    carry = (state.small, last, state.seen)
    # One step more, because all proposals may be kept.
    steps = jnp.arange(self._span, dtype=jnp.int32)
    _, (tokens, q, models) = lax.scan(step, carry, steps)
    keep = slice(0, self._block)
    return tokens[keep].swapaxes(0, 1), q[keep].swapaxes(0, 1), models

  def _scores(
    self, logits: jax.Array, seen: jax.Array, allowed: jax.Array | None
  ) -> jax.Array:
    return jax.vmap(
      lambda x, own: scores(x, own, allowed, self._large.sampling)
    )(logits, seen)

  def _decide(
    self,
    allowed: jax.Array | None,
    logits: jax.Array,
    proposals: jax.Array,
    q: jax.Array,
    seen: jax.Array,
    key: jax.Array,
    drawn: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decides about the proposals of one row.

    Args:
      allowed: [V] bool, or None.
      logits: [k + 1, V] of the large model, at the last token before the
        proposals and at each of them.
      proposals: [k].
      q: [k, V], the log probabilities of the proposals' draws.
      seen: [V] bool.
      key: [2] uint32.
      drawn: The tokens drawn before.

    Returns:
      The new tokens [k + 1], -1 after the last one; how many proposals are
      kept; and the tokens seen.
    """
    sampling = self._large.sampling
    going, kept = jnp.bool_(True), jnp.int32(0)
    new = []
    for i in range(self._span):
      p = log_shares(scores(logits[i], seen, allowed, sampling), sampling)
      keys = [_key(key, drawn + i, purpose) for purpose in (_ACCEPT, _REPLACE)]
      if i < self._block:
        x = proposals[i]
        ratio = jnp.exp(jnp.minimum(p[x] - q[i, x], 0))
        keep = jax.random.uniform(keys[0]) < ratio
        rest = jnp.maximum(jnp.exp(p) - jnp.exp(q[i]), 0)
        # Where p = q but for rounding, nothing is left, and nothing is refused.
        rest = jnp.where(jnp.sum(rest) > 0, jnp.log(rest), p)
        other = jax.random.categorical(keys[1], rest).astype(jnp.int32)
        token = jnp.where(keep, x, other)
      else:
        keep = jnp.bool_(False)
        token = jax.random.categorical(keys[1], p).astype(jnp.int32)
      new.append(jnp.where(going, token, -1))
      seen = seen.at[token].set(seen[token] | going)
      going &= keep
      kept += going.astype(jnp.int32)
    return jnp.stack(new), kept, seen

  def _read_for_good(self, variables: Any, state: _Rows) -> _Rows:
    """Reads C pending tokens of the rows that have more than that."""
    full = state.waiting > self._span

    def read(state: _Rows) -> _Rows:
      tokens = state.pending[:, : self._span]
      _, after = self._large.model.apply(variables, tokens, state.large)
      shifted = jnp.roll(state.pending, -self._span, 1)
      return state._replace(
        large=self._large.rows.where(full, after, state.large),
        pending=jnp.where(full[:, None], shifted, state.pending),
        waiting=jnp.where(full, state.waiting - self._span, state.waiting),
      )

    return lax.cond(jnp.any(full), read, lambda state: state, state)


def _key(key: jax.Array, index: jax.Array, purpose: int) -> jax.Array:
  own = jax.random.wrap_key_data(key, impl="threefry2x32")
  return jax.random.fold_in(jax.random.fold_in(own, index), purpose)


def _keys(keys: jax.Array, index: jax.Array, purpose: int) -> jax.Array:
  return jax.vmap(lambda key, i: _key(key, i, purpose))(keys, index)
