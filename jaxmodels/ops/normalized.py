"""Normalised linear attention, with the exponential gates of the mLSTM.

    S_t = f_t S_{t-1} + i_t k_t v_t^T,    z_t = f_t z_{t-1} + i_t k_t,
    y_t = S_t^T q_t / max(|z_t . q_t|, floor)

Linear attention with its normaliser (Katharopoulos et al. 2020,
arXiv:2006.16236), and the mLSTM of xLSTM (Beck et al. 2024, arXiv:2405.04517)
where `i_t = exp(log_input_gate_t)` has no upper bound. So the state is held
as `(S, z) = e^m (S~, z~)`, with the running maximum

    m_t = max(log f_t + m_{t-1}, log i_t),

and spans compose with it: the larger m stays, the other side shrinks.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import arguments, checks
from jaxmodels.ops.engine.decay import between
from jaxmodels.ops.engine.division import divide
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import at_most, serializable
from jaxmodels.ops.engine.method import (
  CPU_CACHE_ELEMENTS,
  default_chunk_size,
  run,
)
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method, Summary
from jaxmodels.ops.engine.segments import Masks

# The m of a state that nothing was written to, and of an input gate of zero:
# finite, so that differences are.
EMPTY = -1e30
# The log decay of a span that is cut, by a segment or a forget gate of zero:
# takes any m well below EMPTY. Finite, and so are its sums over all tokens.
_CUT = 4 * EMPTY


class Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V], log_i, log_f [C]."""

  q: jax.Array | int
  k: jax.Array | int
  v: jax.Array | int
  log_i: jax.Array | float
  log_f: jax.Array | float


@serializable
class Normalized(NamedTuple):
  """The state `e^m (S, z)`: S [..., H, K, V], z [..., H, K], m [..., H]."""

  S: jax.Array
  z: jax.Array
  m: jax.Array


class _State(NamedTuple):
  """The same of one head, z as one more column: Sz [K, V + 1], m []."""

  Sz: jax.Array
  m: jax.Array


@by_letters(
  ("...LH", "...H"),
  of="v",
  q="...LH",
  k="...LH",
  v="...LH_",
  log_input_gate="...LH",
  log_forget_gate="...LH",
  initial_state="...H",
)
def normalized_linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log_input_gate: jax.Array | None = None,
  log_forget_gate: jax.Array | None = None,
  initial_state: Normalized | None = None,
  *,
  floor: float | None = None,
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

  The forget gate acts before the token is written; y reads the state after
  it. No scale is hidden: the mLSTM of the paper has k divided by sqrt(K).
  The floor is that of the true normaliser, not of the stabilised one, so y
  does not depend on how the state is stabilised.

  Cost: about 2 C (K + V) + 4 K V + 4 C^2 flops a token and head, chunked
  forward.

  Args:
    q: [..., L, H, K].
    k: [..., L, H, K].
    v: [..., L, H, V].
    log_input_gate: log i [..., L, H] of any sign, -inf allowed; None is 1.
    log_forget_gate: log f [..., L, H], at most 0, -inf allowed; None is 1.
    initial_state: `Normalized` (or a tuple) of S [..., H, K, V], z
      [..., H, K], m [..., H], which stands for `e^m (S, z)`; empty by
      default: zeros, and m = -1e30.
    floor: above 0. By default 1 with an input gate, as in the mLSTM, and
      1e-6 without, for positive feature maps.
    segment_ids: [..., L] integers; a segment is a run of equal ids. The
      entering state has id 0, and each token sees only its own segment.
    reverse: run from the last token to the first.
    method: a form, see `jaxmodels.ops.engine.recurrence`; "auto" is
      "chunk_parallel", but on CPU "chunked" unless a gradient of a short
      sequence is asked.
    chunk_size: a power of two; 64 by default, 128 on TPU.
    axis_name: mesh axis over which L is sharded, inside `shard_map`.

  Returns:
    y [..., L, H, V] in the dtype of v, and the final `Normalized` state in
    float32 or wider.

  Raises:
    ValueError: a shape, dtype or option does not fit; names the argument.
  """
  op = "normalized_linear_attention"
  q, k, v, log_input_gate, log_forget_gate, segment_ids = arguments.arrays(
    op,
    q=q,
    k=k,
    v=v,
    log_input_gate=log_input_gate,
    log_forget_gate=log_forget_gate,
    segment_ids=segment_ids,
  )
  if initial_state is not None:
    initial_state = arguments.state(op, initial_state, Normalized)
  gates = {
    "log_input_gate": log_input_gate,
    "log_forget_gate": log_forget_gate,
  }
  if floor is None:
    floor = 1e-6 if log_input_gate is None else 1.0
  _check(op, q, k, v, gates, initial_state, floor, segment_ids)
  *batch, _, _, _ = k.shape
  dtype = wide(k, v)

  def fold(x):  # Leading batch axes become one.
    return x.reshape(math.prod(batch), *x.shape[len(batch) :])

  with jax.named_scope(op):
    log_i, log_f = (  # Wide at once: EMPTY is beyond float16.
      (jnp.zeros_like(q, shape=q.shape[:-1]) if gate is None else gate).astype(
        dtype
      )
      for gate in (log_input_gate, log_forget_gate)
    )
    # No gate that is a number is cut short: an input gate has no upper bound,
    # so only a forget gate of zero forgets any of them.
    tokens = Tokens(
      q, k, v, jnp.maximum(log_i, EMPTY), jnp.maximum(log_f, _CUT)
    )
    state = _enter(initial_state, tokens)
    y, state = run(
      op,
      _family(floor),
      jax.tree.map(fold, tokens),
      jax.tree.map(fold, state),
      None if segment_ids is None else fold(segment_ids),
      reverse=reverse,
      method=method,
      chunk_size=chunk_size,
      default=default_chunk_size(),
      on_cpu=(
        "chunked",
        "chunk_parallel"
        if at_most(k.size, 2 * CPU_CACHE_ELEMENTS)
        else "chunked",
      ),
      axis_name=axis_name,
      dtype=v.dtype,
    )
  y = y.reshape(*batch, *y.shape[1:])
  state = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), state)
  final = Normalized(state.Sz[..., :-1], state.Sz[..., -1], state.m)
  checks.finite(op, y=y, final_state=final)
  return y, final


def _enter(state, tokens) -> _State:
  """The state in float32 or wider; by default empty, made from the tokens."""
  if state is None:
    dtype = wide(tokens.k, tokens.v)
    k, v = (
      jnp.sum(x[..., :1, :, :], -3).astype(dtype) for x in (tokens.k, tokens.v)
    )
    v_and_one = jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, 1)])
    Sz = jnp.zeros_like(k[..., :, None] * v_and_one[..., None, :])
    return _State(Sz, jnp.full_like(jnp.sum(k, axis=-1), EMPTY))
  dtype = wide(tokens.k, tokens.v, *state)
  S, z, m = (x.astype(dtype) for x in state)
  return _State(jnp.concatenate([S, z[..., None]], axis=-1), m)


class _Weights(NamedTuple):
  """Gates from each token and the entering state to token i, over `e^m_i`."""

  pair: jax.Array  # [C, C]
  entry: jax.Array  # [C]
  m: jax.Array  # [C]


def _writes(chunk, masks: Masks) -> jax.Array:
  """`log i_j + sum_{j<t<=i} log f_t` [C, C], where j is joined to i >= j."""
  logs = between(chunk.log_f) + chunk.log_i[None, :]
  return jnp.where(masks.pair, logs, _CUT)


def _weights(chunk, masks, m) -> _Weights:
  """The gates that tokens are read with, if m is that of the state."""
  writes = _writes(chunk, masks)
  kept = m + jnp.cumsum(chunk.log_f)
  kept = jnp.where(masks.entry, kept, _CUT)
  # Any m gives the same y, so a gradient need not go through it.
  m = lax.stop_gradient(jnp.maximum(kept, jnp.max(writes, axis=1)))
  return _Weights(jnp.exp(writes - m[:, None]), jnp.exp(kept - m), m)


def summarize(chunk, masks):
  """The span as if it started empty, and its log decay."""
  log_f = jnp.sum(chunk.log_f)
  writes = _writes(chunk, masks)[-1]
  m = jnp.max(writes)
  k = chunk.k * jnp.exp(writes - m)[:, None]
  return Summary(
    jnp.where(masks.through, log_f, _CUT), _State(k.T @ _with_one(chunk.v), m)
  )


def compose(earlier, later):
  """Log decays add; the earlier update goes through the later span."""
  return Summary(
    later.transition + earlier.transition, advance(later, earlier.update)
  )


def advance(summary, state):
  """Both sides over the larger `e^m`."""
  kept = summary.transition + state.m
  m = jnp.maximum(kept, summary.update.m)
  return _State(
    jnp.exp(kept - m) * state.Sz
    + jnp.exp(summary.update.m - m) * summary.update.Sz,
    m,
  )


def _family(floor: float) -> Family:
  def read(chunk, masks, state):
    """Tokens of the chunk and the entering state, over the normaliser."""
    weights = _weights(chunk, masks, state.m)
    scores = (chunk.q @ chunk.k.T) * weights.pair
    y = scores @ _with_one(chunk.v)
    y = y + weights.entry[:, None] * (chunk.q @ state.Sz)
    # y / max(|z.q|, floor) for e^m y and e^m z, with no exponent above 0: all
    # over the floor, and over e^m where that is above it.
    m = weights.m - math.log(floor)
    y = y * jnp.exp(jnp.minimum(m, 0))[:, None]
    lowest = jnp.exp(-jnp.maximum(m, 0))
    # Above the smallest number, so that a gradient over it is a number too.
    lowest = jnp.maximum(lowest, 64 * jnp.finfo(y.dtype).tiny)
    return divide(y[:, :-1], jnp.maximum(jnp.abs(y[:, -1]), lowest)[:, None])

  neutral = Tokens(0, 0, 0, EMPTY, 0)
  return Family(summarize, compose, advance, read, neutral=neutral)


def _with_one(v):
  """Appends to v a column of ones, which sums the normaliser."""
  return jnp.concatenate([v, jnp.ones_like(v, shape=(v.shape[0], 1))], axis=1)


def _check(op, q, k, v, gates, state, floor, segment_ids):
  """Checks shapes and dtypes, and numbers where that is switched on."""
  checks.rank_at_least(op, "k", k, 3, "[..., L, H, K]")
  checks.shape(op, "q", q, k.shape, "[..., L, H, K] like k")
  checks.shape(op, "v", v, (*k.shape[:-1], None), "[..., L, H, V]")
  for name, gate in gates.items():
    if gate is not None:
      checks.shape(op, name, gate, k.shape[:-1], "[..., L, H]")
  if state is not None:
    lead, width = (*k.shape[:-3], k.shape[-2]), k.shape[-1]
    for name, x, shape, letters in (
      ("S", state.S, (*lead, width, v.shape[-1]), "[..., H, K, V]"),
      ("z", state.z, (*lead, width), "[..., H, K]"),
      ("m", state.m, lead, "[..., H]"),
    ):
      checks.shape(op, f"initial_state.{name}", x, shape, letters)
  given = {"q": q, "k": k, "v": v, **gates}
  if state is not None:
    given |= {f"initial_state.{n}": x for n, x in state._asdict().items()}
  for name, x in given.items():
    if x is not None:
      checks.dtype(op, name, x, jnp.floating, "real floating point")
  checks.require(floor > 0, f"{op}: floor must be above 0, got {floor}")
  forget, input_gate = gates["log_forget_gate"], gates["log_input_gate"]
  if forget is not None:
    checks.between(op, "log_forget_gate", forget, -math.inf, 0)
  if input_gate is not None:
    # Any finite number, or -inf; not NaN either.
    top = float(jnp.finfo(input_gate.dtype).max)
    checks.between(op, "log_input_gate", input_gate, -math.inf, top)
  checks.segment_ids(op, segment_ids, k.shape[:-2])
  checks.finite(op, q=q, k=k, v=v, initial_state=state)
