"""The Mesa layer: the least-squares map from keys to values so far.

MesaNet (von Oswald et al. 2025, arXiv:2506.05233). The state is that of two
linear attentions: H maps keys to keys, and G maps keys to values. A token's
output is `G^T x` with `(H + I) x = q`, solved by conjugate gradients. All
tokens of a chunk take their steps at once: a product with H is a read of linear
attention, with x in place of q.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.decay import (
  boundary_decay,
  pair_decay,
  per_channel,
  scores,
)
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method
from jaxmodels.ops.engine.shared_keys import recall
from jaxmodels.ops.linear_attention import FAMILY as LINEAR
from jaxmodels.ops.linear_attention import Tokens as LinearTokens


@serializable
class Mesa(NamedTuple):
  """The state: H [..., H, K, K] and G [..., H, K, V]."""

  H: jax.Array
  G: jax.Array


class Tokens(NamedTuple):
  """A chunk of one head: q, k [C, K], v [C, V], beta [C], log_decay [C, 1]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  beta: jax.Array
  log_decay: jax.Array | None


def mesa(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  log_decay: jax.Array | None = None,
  initial_state: Mesa | None = None,
  *,
  steps: int = 30,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, Mesa]:
  """Regularised least squares over the past, by conjugate gradients.

      H_t = exp(log_decay_t) H_{t-1} + beta_t k_t k_t^T
      G_t = exp(log_decay_t) G_{t-1} + beta_t k_t v_t^T
      y_t = G_t^T (H_t + I)^-1 q_t

  `G_t^T (H_t + I)^-1` is the matrix W with the least `sum_s w_s |W k_s - v_s|^2
  + |W|^2`, where w_s is beta_s times the decays after s. For a regularisation
  diag(lambda) in place of I, divide q and k by sqrt(lambda): y is then that of
  (H_t + diag(lambda))^-1, and the state is that of the divided keys.

  In exact arithmetic K steps solve the system. The gradient is that of the
  solution, by as many steps for a second system, so it stores no steps.

  Cost: chunked forward, that of `linear_attention` with K + V values, and about
  4 C K + 2 K^2 flops per step, token and head.

  `segment_ids`, shared heads and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, h, K]; h divides H.
    k: [..., L, h, K].
    v: [..., L, H, V].
    beta: [..., L, H], at least 0.
    log_decay: None or [..., L, H], at most 0, -inf allowed. A decay per key
      channel would make H asymmetric.
    initial_state: `Mesa`; H symmetric, with eigenvalues of at least 0.
    steps: of conjugate gradients, at least 1.

  Returns:
    y [..., L, H, V], and the final `Mesa`.
  """
  checks.require(
    isinstance(steps, int) and steps >= 1,
    f"mesa: steps must be an integer of at least 1, got {steps!r}",
  )
  return _op(steps)(
    {"k": k, "q": q, "v": v, "beta": beta, "log_decay": log_decay},
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _writes(chunk: Tokens) -> LinearTokens:
  """Tokens of linear attention: keys beta k and values [k, v]."""
  return LinearTokens(
    chunk.q,
    chunk.beta[:, None] * chunk.k,
    jnp.concatenate([chunk.k, chunk.v], 1),
    chunk.log_decay,
  )


def summarize(chunk, masks):
  """Both states as one of linear attention, [K, K + V]."""
  return LINEAR.summarize(_writes(chunk), masks)


def read(chunk, masks, state, steps):
  """Solves for all tokens of the chunk at once, and reads G."""
  writes, width = _writes(chunk), chunk.k.shape[1]
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  between = pair_decay(chunk.log_decay)

  H, G = state[:, :width], state[:, width:]

  def attend(x, values, before):  # Of x [C, K], as in linear attention.
    met = scores(x, writes.k, between, masks) @ values
    return met + recall(x, decay.entry, before)

  def product(x):  # (H_t + I) x_t for every token t.
    return x + attend(x, chunk.k, H.T)

  x = lax.custom_linear_solve(
    product,
    chunk.q,
    functools.partial(conjugate_gradients, steps=steps),
    symmetric=True,
  )
  return attend(x, chunk.v, G)


def conjugate_gradients(product, b: jax.Array, *, steps: int) -> jax.Array:
  """Solves `product(x) = b` for each row of b [C, K] by itself.

  Args:
    product: multiplies each row by its own matrix, symmetric and positive.
    b: [C, K].
    steps: a row that is solved earlier stays as it is.
  """

  def dot(x, y):
    return jnp.sum(x * y, axis=-1, keepdims=True)

  def over(x, y):
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)

  def body(_, carry):
    x, residual, direction, square = carry
    image = product(direction)
    length = over(square, dot(direction, image))
    x = x + length * direction
    residual = residual - length * image
    after = dot(residual, residual)
    direction = residual + over(after, square) * direction
    return x, residual, direction, after

  start = jnp.zeros_like(b), b, b, dot(b, b)
  return lax.fori_loop(0, steps, body, start)[0]


def _zero(token):
  """The empty state [K, K + V]."""
  width = token.k.shape[1]
  shape = width, width + token.v.shape[1]
  return jnp.zeros(shape, wide(token.k, token.v))


def _enter(state: Mesa) -> jax.Array:
  return jnp.concatenate(state, -1)


def _leave(state: jax.Array) -> Mesa:
  width = state.shape[-2]
  return Mesa(state[..., :width], state[..., width:])


@functools.lru_cache
def _op(steps: int) -> Op:
  """The op with a number of steps."""
  family = Family(
    summarize,
    LINEAR.compose,
    LINEAR.advance,
    functools.partial(read, steps=steps),
    zero=_zero,
  )

  def recurrence(k, q, v, beta, log_decay):
    tokens = Tokens(q, k, v, beta, per_channel(log_decay, k))
    return Recurrence(family, tokens, choose("mesa", k, v))

  return Op(
    "mesa",
    recurrence,
    {
      "k": "... L h K",
      "q": "... L h K",
      "v": "... L H V",
      "beta": "... L H",
      "log_decay": "... L H",
    },
    y="... L H V",
    state=Mesa._make(("... H K K", "... H K V")),
    within={"beta": (0, float("inf"))},
    like="v",
    enter=_enter,
    leave=_leave,
  )
