"""How a token is drawn from logits."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import checks

__all__ = [
  "Sampling",
  "draw",
  "log_probabilities",
  "log_shares",
  "sample_token",
  "scores",
]

# Bits of a float32 without its sign: the halvings after which a search over
# all its values is exact.
_BITS = 31


@dataclasses.dataclass(frozen=True)
class Sampling:
  """The distribution that tokens are drawn from.

  The steps come in this order: the penalty, the temperature, top_k, top_p and
  min_p. top_p uses the probabilities within `top_k`. Among tokens that tie,
  `top_k` keeps those with the lowest numbers, and `top_p` keeps all.

  Attributes:
    temperature: Divides the logits; 0 takes the likeliest token.
    top_k: Draws only among that many likeliest tokens; None for all.
    top_p: Draws among the fewest likeliest tokens whose probabilities add up
      to at least this (Holtzman et al. 2019, arXiv:1904.09751); None for all.
    min_p: Draws among the tokens that are at least this times as probable as
      the likeliest token (Nguyen et al. 2024, arXiv:2407.01082); None for all.
    repetition_penalty: Divides the positive logits of tokens that the row
      already has, prompt included, and multiplies the negative ones (Keskar et
      al. 2019, CTRL, arXiv:1909.05858); 1 is no penalty.

  Raises:
    ValueError: A field has a wrong value; the message names it.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  min_p: float | None = None
  repetition_penalty: float = 1.0

  def __post_init__(self) -> None:
    """Checks the fields."""

    def check(name: str, valid: bool, wanted: str) -> None:
      value = getattr(self, name)
      checks.require(
        value is None or valid,
        f"Sampling: {name} must be {wanted}, got {value!r}",
      )

    penalty = self.repetition_penalty
    check("temperature", 0 <= self.temperature < math.inf, "finite and not < 0")
    check("top_k", (self.top_k or 0) >= 1, "at least 1, or None")
    check("top_p", 0 < (self.top_p or 0) <= 1, "in (0, 1], or None")
    check("min_p", 0 <= (self.min_p or 0) <= 1, "in [0, 1], or None")
    check("repetition_penalty", 0 < penalty < math.inf, "finite and above 0")


def scores(
  logits: jax.Array,
  seen: jax.Array,
  allowed: jax.Array | None,
  sampling: Sampling,
) -> jax.Array:
  """The logits in float32, after the penalty, and -inf where not allowed.

  Args:
    logits: Float `[V]`.
    seen: Bool `[V]`, whether the row already has the token.
    allowed: Bool `[V]`, whether the token may be drawn; None for all.
    sampling: Its `repetition_penalty`.
  """
  values = logits.astype(jnp.float32)
  penalty = sampling.repetition_penalty
  if penalty != 1:
    lowered = jnp.where(values > 0, values / penalty, values * penalty)
    values = jnp.where(seen, lowered, values)
  return values if allowed is None else jnp.where(allowed, values, -jnp.inf)


def draw(values: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
  """Draws a token, an int32 scalar, from scores `[V]`."""
  if sampling.temperature == 0:
    return jnp.argmax(values, axis=-1).astype(jnp.int32)
  ranked, tokens = _candidates(values, sampling)
  place = jax.random.categorical(key, ranked).astype(jnp.int32)
  return place if tokens is None else tokens[place]


def log_shares(values: jax.Array, sampling: Sampling) -> jax.Array:
  """The log probabilities `[V]` with which `draw` draws each token."""
  if sampling.temperature == 0:
    best = jnp.arange(values.size) == jnp.argmax(values, axis=-1)
    return jnp.where(best, 0.0, -jnp.inf)
  ranked, tokens = _candidates(values, sampling)
  if tokens is not None:
    ranked = jnp.full_like(values, -jnp.inf).at[tokens].set(ranked)
  return jax.nn.log_softmax(ranked)


def log_probabilities(
  logits: jax.Array, token: jax.Array, allowed: jax.Array | None
) -> jax.Array:
  """The log probabilities [B] of tokens [B] among the allowed tokens.

  Args:
    logits: [B, V] of the model.
    token: [B] int32.
    allowed: [V] bool, or None for all.
  """
  logits = logits.astype(jnp.float32)
  if allowed is not None:
    logits = jnp.where(allowed[None], logits, -jnp.inf)
  own = jnp.take_along_axis(logits, token[:, None], -1)[:, 0]
  return own - jax.nn.logsumexp(logits, axis=-1)


def sample_token(
  logits: jax.Array,
  key: jax.Array,
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  min_p: float | None = None,
) -> jax.Array:
  """Draws one token.

  Args:
    logits: Float `[V]`.
    key: Random key of the draw.
    temperature: See `Sampling`.
    top_k: See `Sampling`.
    top_p: See `Sampling`.
    min_p: See `Sampling`.

  Returns:
    The token, an int32 scalar.
  """
  sampling = Sampling(temperature, top_k, top_p, min_p)
  return draw(logits.astype(jnp.float32), key, sampling)


def _candidates(
  values: jax.Array, sampling: Sampling
) -> tuple[jax.Array, jax.Array | None]:
  """The logits of the candidates, and their tokens; None is every token.

  A sort of a vocabulary of 50,000 takes a CPU 8 ms, as long as some models.
  So top_k, which XLA has, and a search for the bound of top_p take its place.
  """
  values, tokens = values / sampling.temperature, None
  if sampling.top_k is not None and sampling.top_k < values.size:
    values, tokens = lax.top_k(values, sampling.top_k)
  if sampling.top_p is not None and sampling.top_p < 1:
    shares = jax.nn.softmax(values)
    least = _least_share(shares, sampling.top_p)
    values = jnp.where(shares >= least, values, -jnp.inf)
  if sampling.min_p:
    least = jnp.max(values) + math.log(sampling.min_p)
    values = jnp.where(values >= least, values, -jnp.inf)
  return values, tokens


def _least_share(shares: jax.Array, top_p: float) -> jax.Array:
  """The largest bound at or above which shares add up to at least `top_p`.

  The bits of floats of one sign have the order of their values.
  """

  def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple:
    low, high = bounds
    middle = low + (high - low + 1) // 2
    bound = lax.bitcast_convert_type(middle, jnp.float32)
    enough = jnp.sum(jnp.where(shares >= bound, shares, 0)) >= top_p
    return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

  largest = lax.bitcast_convert_type(jnp.max(shares), jnp.int32)
  bounds = (jnp.zeros_like(largest), largest)
  low, _ = lax.fori_loop(0, _BITS, halve, bounds)
  return lax.bitcast_convert_type(low, jnp.float32)
