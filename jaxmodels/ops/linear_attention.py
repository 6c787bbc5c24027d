"""Linear attention: `S_t = decay_t S_{t-1} + k_t v_t^T`, `y_t = S_t^T q_t`.

Without decay (Katharopoulos et al. 2020, arXiv:2006.16236), with one decay
per head (RetNet, Sun et al. 2023, arXiv:2307.08621; Mamba-2, Dao & Gu 2024,
arXiv:2405.21060), one per key channel (GLA, Yang et al. 2023,
arXiv:2312.06635) or one per value channel (the keys of slots, Zhang et al.
2024, arXiv:2409.07146). With a bonus, y reads the state before the token plus
the bonus times the token's own write (RWKV-6, Peng et al. 2024,
arXiv:2404.05892).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.chunks import repeat_heads, zero_matrix
from jaxmodels.ops.engine.decay import (
  boundary_decay,
  decayed_scores,
  decays,
  pair_decay,
  per_channel,
  so_far,
  strict_entry,
  strict_scores,
)
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import (
  Family,
  Method,
  Summary,
  read_then_advance,
)
from jaxmodels.ops.engine.shared_keys import recall, write
from jaxmodels.ops.engine.value_decay import decayed_values
from jaxmodels.ops.kernels import chunk_kernel, fits_chunk_kernel


class Tokens(NamedTuple):
  """A chunk of one head: q, k [C, K], v [C, V], log_decay [C, K | 1]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  log_decay: jax.Array | None


class ValueTokens(NamedTuple):
  """As `Tokens`, but log_decay [C, V]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  log_decay: jax.Array


class BonusTokens(NamedTuple):
  """As `Tokens`, and own [C]: the factor on its own v that a token reads."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  log_decay: jax.Array | None
  own: jax.Array


class SignedTokens(NamedTuple):
  """As `Tokens`, and flip [C, K | 1]: 1 where the decay is negative, else 0."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  log_decay: jax.Array
  flip: jax.Array


def linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log_decay: jax.Array | None = None,
  initial_state: jax.Array | None = None,
  *,
  bonus: jax.Array | None = None,
  decay_sign: jax.Array | None = None,
  value_log_decay: jax.Array | None = None,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Linear attention with no decay, or one per head, key or value channel.

      S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T
      y_t = S_t^T q_t

  The decay acts before the token is written, and y reads the state after it.

  With a bonus the states are the same, but y reads the state before the token,
  plus the bonus times the token's own write:

      y_t = (S_{t-1} + diag(bonus) k_t v_t^T)^T q_t

  The decay of token t does not act on this `S_{t-1}`. In the letters of
  RWKV-6, r is q, w_t is `exp(log_decay_t)`, and u is the bonus.

  With `decay_sign` the decay is `decay_sign_t exp(log_decay_t)`, in [-1, 1]
  (Grazzi et al. 2024, arXiv:2411.12537). Keys and queries are multiplied by the
  product of the signs so far in their chunk, so that the decays stay positive
  and their logarithms are still added up.

  With `value_log_decay` each value channel has a decay:

      S_t = S_{t-1} diag(exp(value_log_decay_t)) + k_t v_t^T

  Cost: about 2 C (K + V) + 4 K V flops per token and head, chunked forward. A
  decay per head adds 2 C^2, a decay per key channel (4 C + 160) K, or on a TPU
  or GPU 4 C K log2(2 C) in matrix products, and one per value channel the same
  of V. A bonus adds 3 K + 2 V, and signs 2 K.

  `segment_ids`, shared heads and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, h, K]; h divides H.
    k: [..., L, h, K].
    v: [..., L, H, V].
    log_decay: None, [..., L, H] or [..., L, H, K]; at most 0, -inf allowed.
    initial_state: [..., H, K, V].
    bonus: None or [H, K], of any sign.
    decay_sign: None or 1 and -1 in the shape of log_decay; has no gradient. Not
      with a bonus.
    value_log_decay: None or [..., L, H, V]; at most 0, -inf allowed. Not with
      log_decay, a bonus or decay_sign.

  Returns:
    y [..., L, H, V], and the final state [..., H, K, V].
  """
  if decay_sign is not None:
    _check_sign(decay_sign, log_decay, bonus)
  alone = log_decay is None and bonus is None
  checks.require(
    value_log_decay is None or alone,
    "linear_attention: value_log_decay is not supported with log_decay, "
    "decay_sign or a bonus; leave them out",
  )
  return OP(
    {
      "k": k,
      "q": q,
      "v": v,
      "log_decay": log_decay,
      "bonus": bonus,
      "decay_sign": decay_sign,
      "value_log_decay": value_log_decay,
    },
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _check_sign(sign, log_decay, bonus) -> None:
  checks.require(
    log_decay is not None and jnp.shape(sign) == jnp.shape(log_decay),
    "linear_attention: decay_sign must have the shape of log_decay, "
    f"{None if log_decay is None else jnp.shape(log_decay)}, got "
    f"{jnp.shape(sign)}",
  )
  checks.require(
    bonus is None,
    "linear_attention: decay_sign is not supported with a bonus; leave one out",
  )


def _recurrence(k, q, v, log_decay, bonus, decay_sign, value_log_decay):
  # Decays per value take as much as decays per key.
  per_value = value_log_decay is not None
  kind = ", decay per key" if per_value else decays(log_decay, k)
  choice = choose(
    "linear_attention" + kind,
    k,
    v,
    fits=fits_chunk_kernel(k, v, q, log_decay, value_log_decay),
  )
  if value_log_decay is not None:
    by_value = ValueTokens(q, k, v, value_log_decay)
    return Recurrence(BY_VALUE, by_value, choice)
  tokens = Tokens(q, k, v, per_channel(log_decay, k))
  if decay_sign is not None:
    decay: Any = tokens.log_decay
    sign: Any = per_channel(decay_sign, k)
    flip = lax.stop_gradient((1 - sign) / 2)
    return Recurrence(SIGNED, SignedTokens(q, k, v, decay, flip), choice)
  if bonus is None:
    return Recurrence(FAMILY, tokens, choice)
  # The bonus multiplies only q_t and k_t, so one number per token is enough.
  dtype = wide(q, k, bonus)
  q_own, k_own = repeat_heads((q, k), v.shape[2], 2)
  bonus = bonus.astype(dtype)[None, None]
  own = jnp.sum(q_own.astype(dtype) * (bonus * k_own.astype(dtype)), axis=-1)
  return Recurrence(WITH_BONUS, BonusTokens(*tokens, own), choice)


def summarize(chunk, masks):
  """The chunk decays the state and adds `sum_j exit_j k_j v_j^T`."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  return Summary(decay.through, write(chunk.k, decay.exit, chunk.v))


def compose(earlier, later):
  """Multiplies the decays; the later span decays the earlier update."""
  return Summary(
    later.transition * earlier.transition, advance(later, earlier.update)
  )


def advance(summary, state):
  """`diag(transition) S + update`."""
  return summary.transition[:, None] * state + summary.update


def read(chunk, masks, state):
  """Reads the writes of the chunk and the state before it."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  scores = decayed_scores(chunk.q, chunk.k, chunk.log_decay, masks)
  return scores @ chunk.v + recall(chunk.q, decay.entry, state)


def step(token, masks, state):
  """One token needs no scores."""
  state = advance(summarize(token, masks), state)
  return token.q @ state, state


def read_before(chunk, masks, state):
  """Reads the state before each query's token, and `own` times its value."""
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  between = pair_decay(chunk.log_decay)
  y = strict_scores(chunk.q, chunk.k, between, masks) @ chunk.v
  y = y + recall(chunk.q, strict_entry(decay, masks), state)
  return y + chunk.own[:, None] * chunk.v


def _unsigned(chunk) -> tuple[Tokens, jax.Array]:
  """Moves the signs of the decays to the keys and the queries.

  A state times the product of the signs so far has positive decays.

  Returns:
    the tokens, and the product of all signs [K | 1].
  """
  flips = so_far(chunk.flip)
  sign = 1 - 2 * (flips - 2 * jnp.floor(flips / 2))
  tokens = Tokens(chunk.q * sign, chunk.k * sign, chunk.v, chunk.log_decay)
  return tokens, sign[-1]


def summarize_signed(chunk, masks):
  """The summary without signs, times the product of all signs."""
  tokens, sign = _unsigned(chunk)
  transition, update = summarize(tokens, masks)
  return Summary(sign * transition, sign[:, None] * update)


def read_signed(chunk, masks, state):
  """As `read`: queries and keys have the signs."""
  return read(_unsigned(chunk)[0], masks, state)


def step_signed(token, masks, state):
  """One token needs no scores, and its state already has the sign."""
  state = advance(summarize_signed(token, masks), state)
  return token.q @ state, state


def summarize_by_value(chunk, masks):
  """The chunk decays the state and adds `sum_j k_j (exit_j v_j)^T`."""
  decay = boundary_decay(chunk.log_decay, chunk.v, masks)
  return Summary(decay.through, chunk.k.T @ (chunk.v * decay.exit))


def compose_by_value(earlier, later):
  """As `compose`."""
  return Summary(
    later.transition * earlier.transition,
    advance_by_value(later, earlier.update),
  )


def advance_by_value(summary, state):
  """`S diag(transition) + update`."""
  return state * summary.transition[None] + summary.update


def read_by_value(chunk, masks, state):
  """As `read`."""
  decay = boundary_decay(chunk.log_decay, chunk.v, masks)
  between = pair_decay(chunk.log_decay)
  y = decayed_values(chunk.q, chunk.k, chunk.v, between, masks)
  return y + (chunk.q @ state) * decay.entry


def step_by_value(token, masks, state):
  """One token needs no scores."""
  state = advance_by_value(summarize_by_value(token, masks), state)
  return token.q @ state, state


def _with_kernel(family):
  return family._replace(kernel=chunk_kernel(read_then_advance(family)))


FAMILY = _with_kernel(
  Family(
    summarize,
    compose,
    advance,
    read,
    step=step,
    linear=True,
    zero=zero_matrix,
  )
)
# No `step`: strict scores of a single token are 0, so it would save nothing.
WITH_BONUS = _with_kernel(FAMILY._replace(read=read_before))
SIGNED = _with_kernel(
  FAMILY._replace(
    summarize=summarize_signed, read=read_signed, step=step_signed
  )
)
BY_VALUE = _with_kernel(
  FAMILY._replace(
    summarize=summarize_by_value,
    compose=compose_by_value,
    advance=advance_by_value,
    read=read_by_value,
    step=step_by_value,
  )
)
OP = Op(
  "linear_attention",
  _recurrence,
  {
    "k": "... L h K",
    "q": "... L h K",
    "v": "... L H V",
    "log_decay": "... L H | ... L H K",
    "bonus": "H K",
    "decay_sign": "... L H | ... L H K",
    "value_log_decay": "... L H V",
  },
  y="... L H V",
  state="... H K V",
  within={"decay_sign": (-1, 1)},
  like="v",
)
