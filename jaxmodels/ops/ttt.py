"""TTT-linear: a matrix that learns by gradient steps on mini-batches of tokens.

Sun et al. 2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden
States", arXiv:2407.04620. All gradients of a mini-batch are those at its start,
so that they need one product: the dual form. The loss is not quadratic if there
is a norm, so spans of tokens do not compose.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.arguments import state as as_state
from jaxmodels.ops.engine.auto import Choice
from jaxmodels.ops.engine.cells import scan_tokens
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method


@serializable
class TTT(NamedTuple):
  """The state.

  Attributes:
    weight: [..., H, K, V], W at the start of the mini-batch, minus `weight`.
    step: [..., H, K, V], the sum of the mini-batch's steps so far.
    tokens: [..., H], the number of its tokens so far.
  """

  weight: jax.Array
  step: jax.Array
  tokens: jax.Array


class Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V] and rate [C].

  q_0 and k_0 [C, V] are the products of W_0 with q and k. scale [C, V] is that
  of the norm, or None.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  rate: jax.Array
  q_0: jax.Array
  k_0: jax.Array
  scale: jax.Array | None


_STATE = TTT._make(("... H K V", "... H K V", "... H"))
_LETTERS = {
  "q": "... L H K",
  "k": "... L H K",
  "v": "... L H V",
  "rate": "... L H",
}


@by_letters(
  ("... L H V", _STATE),
  **_LETTERS,
  weight="H K V",
  norm_scale="H V",
  norm_bias="H V",
  initial_state=_STATE,
)
def ttt_linear(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  rate: jax.Array,
  weight: jax.Array,
  initial_state: TTT | None = None,
  *,
  norm_scale: jax.Array | None = None,
  norm_bias: jax.Array | None = None,
  norm_epsilon: float = 1e-6,
  mini_batch: int = 16,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, TTT]:
  """Gradient steps on the error of the values that W recalls for keys.

  With f(x, W) = LN(W^T x), or W^T x without `norm_scale`, and t' the last token
  of the mini-batch before that of t:

      W_t = W_{t'} - sum_{t' < s <= t} rate_s grad |f(k_s, W_{t'}) - v_s|^2 / 2
      y_t = f(q_t, W_t)

  Mini-batches of b tokens start at the start of each segment, where W is
  `weight`. With b = 1 and without a norm this is `delta_rule`, with rate for
  beta. For a bias of f, append a channel of 1 to q and k.

  A chunk takes one mini-batch at once. If the initial state may be that of a
  mini-batch that has begun, a chunk takes the two mini-batches that it
  overlaps. With segment ids, tokens run one after another, because mini-batches
  start anywhere. The forms are "recurrent" and "chunked", and sequences cannot
  be sharded.

  Cost: chunked forward, about 2 C (K + V) + 8 K V flops per token and head for
  chunks of one mini-batch, and twice that if an initial state is given.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, H, K].
    k: [..., L, H, K].
    v: [..., L, H, V].
    rate: [..., L, H], the learning rates.
    weight: [H, K, V], W before the first token.
    initial_state: `TTT`.
    norm_scale: [H, V], or None for no norm.
    norm_bias: [H, V], or None for 0.
    norm_epsilon: added to the variance.
    mini_batch: b.
    chunk_size: b by default, rounded up to a power of two.

  Returns:
    y [..., L, H, V], and the final `TTT`.
  """
  op = "ttt_linear"
  if initial_state is not None:
    initial_state = as_state(op, initial_state, TTT)
  q, k, v, rate, weight, norm_scale, norm_bias = arrays(
    op,
    q=q,
    k=k,
    v=v,
    rate=rate,
    weight=weight,
    norm_scale=norm_scale,
    norm_bias=norm_bias,
  )
  _check(op, q, k, v, rate, weight, norm_scale, norm_bias, mini_batch)
  fresh = initial_state is None and segment_ids is None
  with jax.named_scope(op):

    def beside(parameter):  # [H, V] with the rank of v.
      return jnp.expand_dims(parameter.astype(wide(v)), range(v.ndim - 2))

    target = v.astype(wide(v))
    if norm_bias is not None:
      target = target - beside(norm_bias)
    y, state = _op(mini_batch, norm_epsilon, fresh)(
      {
        "k": k,
        "q": q,
        "v": target,
        "rate": rate,
        "q_0": _product(q, weight),
        "k_0": _product(k, weight),
        "scale": None
        if norm_scale is None
        else jnp.broadcast_to(beside(norm_scale), v.shape),
      },
      initial_state,
      segment_ids,
      Options(reverse, method, chunk_size, axis_name),
    )
    if norm_bias is not None:
      y = y + beside(norm_bias)
    return y.astype(v.dtype), state


def _check(op, q, k, v, rate, weight, norm_scale, norm_bias, mini_batch):
  checks.arguments(
    op,
    k=(k, "... L H K"),
    q=(q, "... L H K"),
    v=(v, "... L H V"),
    rate=(rate, "... L H"),
    weight=(weight, "H K V"),
    norm_scale=(norm_scale, "H V"),
    norm_bias=(norm_bias, "H V"),
  )
  checks.floating(op, weight=weight, norm_scale=norm_scale, norm_bias=norm_bias)
  checks.require(
    isinstance(mini_batch, int) and mini_batch >= 1,
    f"{op}: mini_batch must be an integer of at least 1, got {mini_batch!r}",
  )
  checks.require(
    norm_bias is None or norm_scale is not None,
    f"{op}: norm_bias is used with norm_scale only: give norm_scale too",
  )


def _product(x: jax.Array, weight: jax.Array) -> jax.Array:
  """The product of W_0 with x [..., L, H, K], as [..., L, H, V]."""
  dtype = wide(x, weight)
  return jnp.einsum("...hk,hkv->...hv", x.astype(dtype), weight.astype(dtype))


def _read_and_advance(chunk, masks, state, *, size, epsilon, fresh):
  """Runs a chunk; with segment ids, one token after another."""
  run = functools.partial(_dual, size=size, epsilon=epsilon, fresh=fresh)
  if masks.constant:
    return run(chunk, state)

  def one(token, masks, state):
    state = jax.tree.map(lambda x: jnp.where(masks.entry[0], x, 0), state)
    return run(token, state)

  return scan_tokens(one)(chunk, masks, state)


def _dual(chunk, state, *, size, epsilon, fresh):
  """The dual form, for each mini-batch that the chunk may overlap."""
  count, before = chunk.k.shape[0], jax.lax.stop_gradient(state.tokens)
  aligned = fresh and count % size == 0
  if aligned and count == size:
    return _mini_batch(chunk, state, epsilon)
  batches = count // size if aligned else (count + 2 * size - 2) // size
  place = before + jnp.arange(count, dtype=before.dtype)
  batch = jnp.floor(place / size)
  earlier = np.tri(count, dtype=bool)
  met = jnp.where(earlier, chunk.q @ chunk.k.T, 0)
  weight, step = state.weight, state.step
  recalled = jnp.zeros_like(chunk.q_0)
  for i in range(batches):
    here = (batch == i)[:, None]
    slope = _slope(chunk.k @ weight + chunk.k_0, chunk, epsilon)
    steps = jnp.where(here, chunk.rate[:, None] * slope, 0)
    recall = chunk.q @ (weight - step) - met @ steps
    recalled = jnp.where(here, recall, recalled)
    step = step + chunk.k.T @ steps
    full = before + count >= (i + 1) * size
    weight = jnp.where(full, weight - step, weight)
    step = jnp.where(full, 0, step)
  y = _finish(recalled, chunk, epsilon)
  total = before + count
  return y, TTT(weight, step, total - size * jnp.floor(total / size))


def _mini_batch(chunk, state, epsilon):
  """The dual form of a whole mini-batch, which is the usual chunk."""
  weight = state.weight
  slope = _slope(chunk.k @ weight + chunk.k_0, chunk, epsilon)
  steps = chunk.rate[:, None] * slope
  met = jnp.where(np.tri(len(steps), dtype=bool), chunk.q @ chunk.k.T, 0)
  recalled = chunk.q @ weight - met @ steps
  state = state._replace(weight=weight - chunk.k.T @ steps)
  return _finish(recalled, chunk, epsilon), state


def _finish(recalled, chunk, epsilon):
  """Outputs from what the change of the weight recalls."""
  y = recalled + chunk.q_0
  if chunk.scale is None:
    return y
  return chunk.scale * _normalize(y, epsilon)[0]


def _slope(recalled, chunk, epsilon):
  """The gradient [C, V] of `|f - v|^2 / 2` by W^T k."""
  if chunk.scale is None:
    return recalled - chunk.v
  unit, root = _normalize(recalled, epsilon)
  slope = chunk.scale * (chunk.scale * unit - chunk.v)

  def mean(x):
    return jnp.mean(x, -1, keepdims=True)

  return (slope - mean(slope) - unit * mean(slope * unit)) * root


def _normalize(x, epsilon):
  """Returns x minus its mean, over its deviation; and 1 over the deviation."""
  x = x - jnp.mean(x, -1, keepdims=True)
  root = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon)
  return x * root, root


def _zero(token):
  """The empty state."""
  dtype = wide(token.k, token.v)
  zeros = jnp.zeros((token.k.shape[1], token.v.shape[1]), dtype)
  return TTT(zeros, zeros, jnp.zeros((), dtype))


@functools.lru_cache
def _op(size: int, epsilon: float, fresh: bool) -> Op:
  """The op with mini-batches of `size` tokens."""
  family = Family(
    read_and_advance=functools.partial(
      _read_and_advance, size=size, epsilon=epsilon, fresh=fresh
    ),
    zero=_zero,
    neutral=None,
  )
  chunk = 1 << (size - 1).bit_length()

  def recurrence(k, q, v, rate, q_0, k_0, scale):
    tokens = Tokens(q, k, v, rate, q_0, k_0, scale)
    return Recurrence(family, tokens, Choice("chunked", "chunked", chunk))

  values = dict.fromkeys(("q_0", "k_0", "scale"), "... L H V")
  order = {name: _LETTERS[name] for name in ("k", "q", "v", "rate")}
  return Op(
    "ttt_linear",
    recurrence,
    order | values,
    y="... L H V",
    state=_STATE,
  )
