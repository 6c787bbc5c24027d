"""Hopfield layer: associative memory with a continuous state."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_positive, divide
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import Cache, attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["Hopfield", "HopfieldState", "energy", "retrieve"]


@by_letters("B L H K", state="B L H K", patterns="M H K")
def retrieve(
  state: jax.Array, patterns: jax.Array, beta: float, steps: int
) -> jax.Array:
  """Updates a state `steps` times: xi <- X softmax(beta X^T xi).

  Args:
    state: xi [B, L, H, K].
    patterns: X [M, H, K].
    beta: The inverse temperature.
    steps: The number of updates.
  """
  for _ in range(steps):
    scores = beta * jnp.einsum("blhk,mhk->blhm", state, patterns)
    state = jnp.einsum("blhm,mhk->blhk", jax.nn.softmax(scores, -1), patterns)
  return state


def energy(state: jax.Array, patterns: jax.Array, beta: float) -> jax.Array:
  """|xi|^2 / 2 - logsumexp(beta X^T xi) / beta, which no update raises.

  The constants of the paper, which make it at least 0, are left out.

  Args:
    state: xi [B, L, H, K].
    patterns: X [M, H, K].
    beta: The inverse temperature.

  Returns:
    [B, L, H].
  """
  scores = beta * jnp.einsum("blhk,mhk->blhm", state, patterns)
  lowest = jax.nn.logsumexp(scores, -1) / beta
  return jnp.sum(state * state, -1) / 2 - lowest


@serializable
class HopfieldState(NamedTuple):
  """The cache of past patterns; None if the patterns are learned."""

  cache: Cache | None


class Hopfield(Mixer):
  """Retrieves patterns by updates of a continuous Hopfield network.

  Per head, with the patterns X = [k_1, ..., k_M] and their values V:

    xi = W_q x_t
    xi <- X softmax(beta X^T xi), `steps` times
    y_t = W_o concat_heads(V softmax(beta X^T xi))

  The patterns are k_s = W_k x_s with the values v_s = W_v x_s, for the tokens s
  of the segment up to t. With the field `patterns`, they are that many learned
  vectors, the same for all tokens. With `steps` = 0 the layer is softmax
  attention whose scores are scaled by beta. A large beta retrieves one pattern,
  and a small one a mean of patterns. An update never raises the energy |xi|^2 /
  2 - logsumexp(beta X^T xi) / beta.

  Ramsauer et al. 2020, "Hopfield Networks is All You Need", arXiv:2008.02217.
  Departures: no norms of states and patterns; LeCun initialisation.

  The other fields are those of `Mixer`. The state is the cache of the last
  `window` - 1 patterns, or empty for learned ones.

  Attributes:
    heads: H.
    beta: The inverse temperature, by default 1 / sqrt(K).
    steps: The number of updates of xi.
    patterns: The number of learned patterns, or None for the tokens.
    window: For tokens, the number of tokens that are patterns at a time.
  """

  heads: int = 4
  beta: float | None = None
  steps: int = 1
  patterns: int | None = None
  window: int = 512

  def mix(
    self,
    x: jax.Array,
    state: HopfieldState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, HopfieldState]:
    """The equation above."""
    width, beta = self._sizes()
    xi = self.heads_of("query", x, self.heads, width)
    if self.patterns is not None:
      y = self._look_up(xi, beta, self.patterns)
      return self.project_out(y), HopfieldState(None)
    k = self.heads_of("key", x, self.heads, width)
    v = self.heads_of("value", x, self.heads, width)
    cache = None if state is None else state.cache
    keys = None if cache is None else cache._replace(v=cache.k)

    def attend(
      values: jax.Array, cache: Cache | None
    ) -> tuple[jax.Array, Cache]:
      return self.run(
        attention, beta * xi, k, values, self.window,
        state=cache, segment_ids=segment_ids,
      )  # fmt: skip

    for _ in range(self.steps):
      xi, _ = attend(k, keys)
    y, last = attend(v, cache)
    return self.project_out(y), HopfieldState(last)

  @nn.nowrap
  def _look_up(self, xi: jax.Array, beta: float, count: int) -> jax.Array:
    """Retrieves the values of `count` learned patterns: [B, L, H, K]."""
    shape = (count, self.heads, xi.shape[-1])
    init = nn.initializers.normal(1.0)
    keys = self.wide_param("patterns", init, shape)
    values = self.wide_param("values", init, shape)
    xi = retrieve(xi.astype(self.wide), keys, beta, self.steps)
    return _read(xi, keys, values, beta).astype(self.dtype)

  @nn.nowrap
  def _sizes(self) -> tuple[int, float]:
    """K and beta, once the fields are checked."""
    check_fields(self, "heads", "patterns", "window")
    width = divide(self, "heads", self.width, "D")
    if self.beta is not None:
      check_positive(self, "beta")
    checks.require(
      isinstance(self.steps, int) and self.steps >= 0,
      f"Hopfield: steps must be an integer of at least 0, got {self.steps!r}",
    )
    return width, width**-0.5 if self.beta is None else self.beta


@by_letters("B L H K", xi="B L H K", keys="M H K", values="M H K")
def _read(
  xi: jax.Array, keys: jax.Array, values: jax.Array, beta: float
) -> jax.Array:
  scores = beta * jnp.einsum("blhk,mhk->blhm", xi, keys)
  return jnp.einsum("blhm,mhk->blhk", jax.nn.softmax(scores, -1), values)
