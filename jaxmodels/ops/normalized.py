"""Normalised linear attention, with the exponential gates of the mLSTM.

    S_t = f_t S_{t-1} + i_t k_t v_t^T,    z_t = f_t z_{t-1} + i_t k_t,
    y_t = S_t^T q_t / max(|z_t . q_t|, floor)

Linear attention with its normaliser (Katharopoulos et al. 2020,
arXiv:2006.16236), and the mLSTM of xLSTM (Beck et al. 2024, arXiv:2405.04517)
where `i_t = exp(log_input_gate_t)` has no upper bound. To avoid overflow, the
state is stored as `(S, z) = e^m (S~, z~)`, with the running maximum

    m_t = max(log f_t + m_{t-1}, log i_t).

With a bonus, y reads the state before the token plus the weighted write of the
token itself (RWKV-4, Peng et al. 2023, arXiv:2305.13048).

Two spans compose at the larger m: the span with the smaller m is scaled down.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.decay import between
from jaxmodels.ops.engine.division import divide
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method, Summary
from jaxmodels.ops.engine.segments import Masks
from jaxmodels.ops.kernels import fits_chunk_kernel
from jaxmodels.ops.known_maxima import family_of, known_maxima, with_one

# The m of an empty state and of an input gate of zero. It is finite, so that
# differences of two m are finite too.
EMPTY = -1e30
# The log decay of a span in which a segment starts or a forget gate is zero.
# Added to any m it gives a number far below EMPTY, and its sum over all tokens
# is finite.
_CUT = 4 * EMPTY


class Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V], log_i, log_f [C]."""

  q: jax.Array | int
  k: jax.Array | int
  v: jax.Array | int
  log_i: jax.Array | float
  log_f: jax.Array | float


class BonusTokens(NamedTuple):
  """The same, and the log weight of the own write of a token, log_own [C]."""

  q: jax.Array | int
  k: jax.Array | int
  v: jax.Array | int
  log_i: jax.Array | float
  log_f: jax.Array | float
  log_own: jax.Array | float


@serializable
class Normalized(NamedTuple):
  """The state `e^m (S, z)`: S [..., H, K, V], z [..., H, K], m [..., H]."""

  S: jax.Array
  z: jax.Array
  m: jax.Array


class _State(NamedTuple):
  """The state of one head, with z as the last column of Sz [K, V + 1]; m []."""

  Sz: jax.Array
  m: jax.Array


def normalized_linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log_input_gate: jax.Array | None = None,
  log_forget_gate: jax.Array | None = None,
  initial_state: Normalized | None = None,
  *,
  floor: float | None = None,
  log_bonus: jax.Array | None = None,
  epsilon: float = 0.0,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, Normalized]:
  """Linear attention divided by its normaliser, with optional gates.

      S_t = f_t S_{t-1} + i_t k_t v_t^T
      z_t = f_t z_{t-1} + i_t k_t
      y_t = S_t^T q_t / max(|z_t . q_t|, floor)

  The forget gate acts before the token is written, and y reads the state after
  it. For the mLSTM of the paper, divide k by sqrt(K). The floor bounds
  `|z_t . q_t|` itself, not the stabilised `|z~_t . q_t|`, so y does not depend
  on m.

  With a bonus the states are the same, but y reads the state before the token,
  which the forget gate of the token has not decayed, plus exp(log_bonus) times
  the token's own write:

      y_t = (S_{t-1} + e^bonus i_t k_t v_t^T)^T q_t
            / max(|(z_{t-1} + e^bonus i_t k_t) . q_t|, floor)

  Where `z_t . q_t` is near zero, y and its gradients lose the digits that a
  GPU's TF32 products lack, and more: for normal q and k, gradients were off by
  up to 0.5 of their largest value. In float32 on a GPU, train under
  `jax.default_matmul_precision("float32")`.

  Cost: about 2 C (K + V) + 4 K V + 4 C^2 flops per token and head, chunked
  forward.

  `segment_ids`, shared heads and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, h, K]; h divides H.
    k: [..., L, h, K].
    v: [..., L, H, V].
    log_input_gate: log i [..., L, H] of any sign, -inf allowed; None is 1.
    log_forget_gate: log f [..., L, H], at most 0, -inf allowed; None is 1.
    initial_state: `Normalized` (or a tuple) of S [..., H, K, V], z
      [..., H, K], m [..., H], which stands for `e^m (S, z)`; empty by
      default: zeros, and m = -1e30.
    floor: above 0. By default 1 with an input gate, as in the mLSTM, and
      1e-6 without, for positive feature maps.
    log_bonus: None or [H], of any sign.
    epsilon: At least 0. The published code of the mLSTM adds it to the
      stabilised denominator, so here epsilon e^m is added to the denominator,
      with the m of the state after the token. This m has no gradient. Not with
      a bonus.

  Returns:
    y [..., L, H, V], and the final `Normalized` state.
  """
  if floor is None:
    floor = 1e-6 if log_input_gate is None else 1.0
  checks.require(
    floor > 0,
    f"normalized_linear_attention: floor must be above 0, got {floor}",
  )
  checks.require(
    epsilon >= 0 and (log_bonus is None or not epsilon),
    "normalized_linear_attention: epsilon must be at least 0, and 0 with a "
    f"bonus, got {epsilon}",
  )
  run = dataclasses.replace(
    OP, recurrence=functools.partial(_recurrence, floor, epsilon)
  )
  return run(
    {
      "k": k,
      "q": q,
      "v": v,
      "log_input_gate": log_input_gate,
      "log_forget_gate": log_forget_gate,
      "log_bonus": log_bonus,
    },
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _recurrence(
  floor, epsilon, k, q, v, log_input_gate, log_forget_gate, log_bonus
):
  log_i, log_f = (  # Wide at once: EMPTY is beyond float16.
    (jnp.zeros_like(v, shape=v.shape[:-1]) if gate is None else gate).astype(
      wide(k, v)
    )
    for gate in (log_input_gate, log_forget_gate)
  )
  # The bounds are so low that they change only gates of zero: an input gate has
  # no upper bound, so only a forget gate of zero may erase every write.
  log_i = jnp.maximum(log_i, EMPTY)
  tokens = Tokens(q, k, v, log_i, jnp.maximum(log_f, _CUT))
  # The values of the kernel have one more column.
  wider = jax.ShapeDtypeStruct((*v.shape[:-1], v.shape[-1] + 1), v.dtype)
  fits = log_bonus is None and fits_chunk_kernel(k, wider, q, log_f, log_i)
  single = k.shape[-1] == v.shape[-1] == 1
  kind = "normalized_linear_attention" + ", one channel" * single
  choice = choose(kind, k, v, fits)
  if log_bonus is None:
    return Recurrence(_family(floor, epsilon), tokens, choice)
  log_own = log_i + log_bonus.astype(log_i.dtype)[None, None]
  return Recurrence(
    _family(floor, weights_of=_weights_before)._replace(
      neutral=BonusTokens(0, 0, 0, EMPTY, 0, EMPTY),
      prepare=None,
      kernel=None,
    ),
    BonusTokens(*tokens, log_own),
    choice,
  )


def _enter(state: Normalized) -> _State:
  dtype = wide(*state)
  S, z, m = (x.astype(dtype) for x in state)
  return _State(jnp.concatenate([S, z[..., None]], axis=-1), m)


def _leave(state: _State) -> Normalized:
  return Normalized(state.Sz[..., :-1], state.Sz[..., -1], state.m)


def _zero(token) -> _State:
  """The empty state."""
  dtype = wide(token.k, token.v)
  Sz = jnp.zeros((token.k.shape[1], token.v.shape[1] + 1), dtype)
  return _State(Sz, jnp.full((), EMPTY, dtype))


class _Weights(NamedTuple):
  """Weights of each token, and of the entering state, at i, over `e^m_i`."""

  pair: jax.Array  # [C, C]
  entry: jax.Array  # [C]
  m: jax.Array  # [C]


def _writes(chunk, masks: Masks) -> jax.Array:
  """`log i_j + sum_{j<t<=i} log f_t` [C, C], of j <= i in one segment."""
  logs = between(chunk.log_f) + chunk.log_i[None, :]
  return jnp.where(masks.pair, logs, _CUT)


def _weights(chunk, masks, m) -> _Weights:
  """The weights with which tokens are read, given the m of the state."""
  kept = m + jnp.cumsum(chunk.log_f)
  return _stabilised(_writes(chunk, masks), kept, masks)


def _weights_before(chunk, masks, m) -> _Weights:
  """The same of the state before each token, and of the token's own write."""
  # The state before token i is the state after token i - 1.
  logs = jnp.roll(between(chunk.log_f) + chunk.log_i[None, :], 1, axis=0)
  own, earlier = (np.tri(len(logs), k=k, dtype=bool) for k in (0, -1))
  own &= ~earlier
  logs = jnp.where(earlier & masks.pair, logs, _CUT)
  logs = jnp.where(own, chunk.log_own[None, :], logs)
  decays = jnp.cumsum(chunk.log_f)
  kept = m + jnp.concatenate([jnp.zeros_like(decays[:1]), decays[:-1]])
  return _stabilised(logs, kept, masks)


def _stabilised(writes, kept, masks) -> _Weights:
  """Divides the weights of each token by the largest of them."""
  kept = jnp.where(masks.entry, kept, _CUT)
  # y does not depend on m, so no gradient has to pass through m.
  m = lax.stop_gradient(jnp.maximum(kept, jnp.max(writes, axis=1)))
  return _Weights(jnp.exp(writes - m[:, None]), jnp.exp(kept - m), m)


def summarize(chunk, masks):
  """The log decay of the span, and its state if it starts empty."""
  log_f = jnp.sum(chunk.log_f)
  writes = _writes(chunk, masks)[-1]
  m = jnp.max(writes)
  k = chunk.k * jnp.exp(writes - m)[:, None]
  return Summary(
    jnp.where(masks.through, log_f, _CUT), _State(k.T @ with_one(chunk.v), m)
  )


def compose(earlier, later):
  """Adds the log decays; the later span decays the earlier update."""
  return Summary(
    later.transition + earlier.transition, advance(later, earlier.update)
  )


def advance(summary, state):
  """Scales both sides by the larger `e^m`, and adds them."""
  kept = summary.transition + state.m
  m = jnp.maximum(kept, summary.update.m)
  return _State(
    jnp.exp(kept - m) * state.Sz
    + jnp.exp(summary.update.m - m) * summary.update.Sz,
    m,
  )


def _family(
  floor: float, epsilon: float = 0.0, weights_of: Any = _weights
) -> Family:
  def read(chunk, masks, state):
    """Reads the chunk and the state before it, divided by the normaliser."""
    weights = weights_of(chunk, masks, state.m)
    scores = (chunk.q @ chunk.k.T) * weights.pair
    y = scores @ with_one(chunk.v)
    y = y + weights.entry[:, None] * (chunk.q @ state.Sz)
    return finish(y, weights.m[:, None])

  def finish(y, m):
    """`e^m y / max(|e^m z.q|, floor)`, of y with z.q as the last column."""
    # Numerator and denominator are divided by max(e^m, floor), so that no
    # exponent is above 0.
    m = m - math.log(floor)
    scale = jnp.exp(jnp.minimum(m, 0))
    y = y * scale
    lowest = jnp.exp(-jnp.maximum(m, 0))
    # Well above the smallest normal number, so that a gradient divided by it is
    # finite.
    lowest = jnp.maximum(lowest, 64 * jnp.finfo(y.dtype).tiny)
    norm = jnp.maximum(jnp.abs(y[:, -1:]), lowest)
    if epsilon:
      norm = norm + epsilon * scale
    return divide(y[:, :-1], norm)

  known = family_of(finish)
  return Family(
    summarize,
    compose,
    advance,
    read,
    neutral=Tokens(0, 0, 0, EMPTY, 0),
    prepare=functools.partial(known_maxima, known, _CUT),
    kernel=known.kernel,
    zero=_zero,
  )


OP = Op(
  "normalized_linear_attention",
  _recurrence,
  {
    "k": "... L h K",
    "q": "... L h K",
    "v": "... L H V",
    "log_input_gate": "... L H",
    "log_forget_gate": "... L H",
    "log_bonus": "H",
  },
  y="... L H V",
  state=Normalized._make(("... H K V", "... H K", "... H")),
  within={
    "log_input_gate": (-math.inf, math.inf),
    "log_forget_gate": (-math.inf, 0),
    "log_bonus": (-math.inf, math.inf),
  },
  like="v",
  enter=_enter,
  leave=_leave,
)
