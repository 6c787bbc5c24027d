"""Log-linear attention: one state per level of a Fenwick tree.

Guo et al. 2025, "Log-Linear Attention", arXiv:2506.04761, over linear attention
and over the gated delta rule.

A Fenwick tree splits the tokens before token t into ranges, one for each bit of
t that is 1: bit b has a range of 2^b tokens, and lower bits have later ranges.
Token s is in the range of the highest bit in which s and t differ. As t grows,
ranges merge and never split. So each token adds a write of its own, some states
are added up, and one state per bit is enough.

All states have the transitions of the base op, and differ in the tokens that
they hold. A chunk is therefore four matrices of the base op: from values to
outputs, from the entering state to outputs, from values to the leaving state,
and from the entering state to the leaving one. Levels weigh or select their
entries.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.arguments import state as as_state
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.decay import (
  boundary_decay,
  pair_decay,
  per_channel,
  scores,
)
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.exporting import serializable
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.positions import advance_positions
from jaxmodels.ops.engine.recurrence import Family, Method, Summary
from jaxmodels.ops.engine.triangular import solve_unit_lower


@serializable
class LogLinear(NamedTuple):
  """The states of N levels [..., H, N, K, V], and the number of tokens [...].

  The number counts the tokens so far in the segment of the last token.
  """

  levels: jax.Array
  position: jax.Array


class Tokens(NamedTuple):
  """A chunk: q, k [C, K], v [C, V], scale [C, N + 1], log_decay, beta [C].

  log_decay is [C, K | 1]. position [C, 2] is split by `_split`, because chunks
  hold float32, which would round a position above 2^24.
  """

  q: jax.Array
  k: jax.Array
  v: jax.Array
  scale: jax.Array
  position: jax.Array
  log_decay: jax.Array | None
  beta: jax.Array | None


class Transition(NamedTuple):
  """How a span changes the entering states.

  Attributes:
    matrix: [K, K], or [K | 1] if it is diagonal: that of the base op.
    moves: [N, N], entry (i, j) is 1 if level j becomes a part of level i.
  """

  matrix: jax.Array
  moves: jax.Array


_STATE = LogLinear._make(("... H N K V", "..."))


@by_letters(
  ("... L H V", _STATE),
  q="... L h K",
  k="... L h K",
  v="... L H V",
  scale="... L H M",
  log_decay="... L H | ... L H K",
  beta="... L H",
  initial_state=_STATE,
)
def log_linear_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: jax.Array,
  log_decay: jax.Array | None = None,
  initial_state: LogLinear | None = None,
  *,
  beta: jax.Array | None = None,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, LogLinear]:
  """Linear attention or the delta rule, with a weight per level of the past.

  Token t of a segment, counted from 0, reads token s at level l(t, s): 0 if
  s = t, else one more than the highest bit in which t and s differ, and at most
  N. With T_t the transition of token t in the base op, and w_t its write,

      y_t = sum_{s <= t} scale_{t, l(t, s)} (T_t ... T_{s+1} w_s)^T q_t

  The base op is `linear_attention` with w_s = k_s v_s^T and T_t = decay_t, or,
  with beta, `delta_rule` with w_s = beta_s k_s v_s^T and T_t = (I - beta_t k_t
  k_t^T) decay_t. If all scales are 1, y is that of the base op.

  There are N states per head, for levels 1 to N; level 0 is the token's own
  write. They tell apart the ranges of segments of 2^N tokens. In longer
  segments, level N holds all tokens before the last multiple of 2^(N-1): it is
  then one state of the base op for the whole past.

  Cost: chunked forward, that of the base op, and about 2 N (C + 2 K V) + 2 C^2
  flops per token and head. With beta, another 2 N K^2 V / C + 4 C^2.

  `segment_ids`, shared heads and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, h, K]; h divides H.
    k: [..., L, h, K].
    v: [..., L, H, V].
    scale: [..., L, H, N + 1], the weights of levels 0 to N, of any sign; N is
      at most 31.
    log_decay: None, [..., L, H] or [..., L, H, K]; at most 0, -inf allowed.
    initial_state: `LogLinear`.
    beta: None, or [..., L, H] in [0, 2].

  Returns:
    y [..., L, H, V], and the final `LogLinear`.
  """
  op = "log_linear_attention"
  if initial_state is not None:
    initial_state = as_state(op, initial_state, LogLinear)
  q, k, v, scale, log_decay, beta, segment_ids = arrays(
    op,
    q=q,
    k=k,
    v=v,
    scale=scale,
    log_decay=log_decay,
    beta=beta,
    segment_ids=segment_ids,
  )
  _check(op, k, v, scale, initial_state, segment_ids)
  options = Options(reverse, method, chunk_size, axis_name)
  with jax.named_scope(op):
    position, after = _positions(v, initial_state, segment_ids, options)
    y, levels = OP(
      {
        "k": k,
        "q": q,
        "v": v,
        "scale": scale,
        "position": _split(position).reshape(*v.shape[:-2], 1, 2),
        "log_decay": log_decay,
        "beta": beta,
      },
      None if initial_state is None else initial_state.levels,
      segment_ids,
      options,
    )
    return y, LogLinear(levels, after.reshape(v.shape[:-3]))


def levels_of(length: int) -> int:
  """The N whose levels tell apart all ranges of `length` tokens."""
  return max(length - 1, 1).bit_length()


def _check(op, k, v, scale, initial_state, segment_ids):
  """Checks what `Op` does not check: scale, and the state's parts."""
  checks.arguments(
    op,
    k=(k, "... L h K"),
    v=(v, "... L H V"),
    scale=(scale, "... L H M"),
    segment_ids=(segment_ids, "... L"),
  )
  checks.integers(op, segment_ids=segment_ids)
  count = scale.shape[-1] - 1
  checks.require(
    1 <= count <= 31,
    f"{op}: scale must be [..., L, H, N + 1] with N from 1 to 31, got N = "
    f"{count}",
  )
  if initial_state is not None:
    shape = (*v.shape[:-3], v.shape[-2], count, k.shape[-1], v.shape[-1])
    levels, position = initial_state
    checks.shape(op, "initial_state.levels", levels, shape, "[..., H, N, K, V]")
    checks.shape(op, "initial_state.position", position, shape[:-4], "[...]")
    checks.integers(op, position=position)


def _positions(v, initial_state, segment_ids, options):
  """Each token's place in its segment, and the number of tokens at the end."""
  if initial_state is not None:
    entering = initial_state.position
  else:  # Zeros made from v, so that they are sharded like v.
    axes = tuple(range(v.ndim - 3, v.ndim))
    entering = jnp.sum(jnp.zeros_like(v, jnp.int32), axes, jnp.int32)
  count = math.prod(v.shape[:-3])
  if segment_ids is not None:
    segment_ids = segment_ids.reshape(count, v.shape[-3])
  return advance_positions(
    entering.reshape(count),
    v.shape[-3],
    segment_ids,
    options.axis_name,
    options.reverse,
  )


def _recurrence(k, q, v, scale, position, log_decay, beta):
  tokens = Tokens(q, k, v, scale, position, per_channel(log_decay, k), beta)
  return Recurrence(FAMILY, tokens, choose("log_linear_attention", k, v))


def _split(position: jax.Array) -> jax.Array:
  """[...] integers as [..., 2] of float32: the high and the low 16 bits."""
  parts = jnp.stack([position >> 16, position & 0xFFFF], -1)
  return parts.astype(jnp.float32)


def _position(chunk: Tokens) -> jax.Array:
  """[C] of int32."""
  high, low = chunk.position[:, 0], chunk.position[:, 1]
  return (high.astype(jnp.int32) << 16) + low.astype(jnp.int32)


def _level(t: jax.Array, s: jax.Array, count: int) -> jax.Array:
  """The level at which token t reads token s, at most `count`."""
  return jnp.minimum(32 - lax.clz(t ^ s), count)


def _ranges(position: jax.Array, count: int) -> jax.Array:
  """The first token [N] in the range of each level, before a chunk.

  A level without tokens has any number. The last level starts at token 0,
  because it may hold several ranges.
  """
  bits = np.arange(1, count + 1, dtype=np.int32)
  starts = (position[:1] >> bits) << bits
  return jnp.where(bits == count, 0, starts)


def _pick(scale: jax.Array, level: jax.Array) -> jax.Array:
  """The entries of scale [C, N + 1] at levels [C, M], as [C, M]."""
  places = np.arange(scale.shape[1], dtype=np.int32)[None, None]
  hot = level[..., None] == places
  return jnp.sum(jnp.where(hot, scale[:, None], 0), -1)


class _Chunk(NamedTuple):
  """A chunk of the base op, as four matrices.

  Attributes:
    met: [C, C], from values to outputs.
    entry: [C, K], from the entering state to outputs.
    exit: [C, K], from values to the leaving state, transposed.
    through: [K, K], or [K | 1] if it is diagonal.
  """

  met: jax.Array
  entry: jax.Array
  exit: jax.Array
  through: jax.Array


def _matrices(chunk: Tokens, masks) -> _Chunk:
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  between = pair_decay(chunk.log_decay)
  met = scores(chunk.q, chunk.k, between, masks)
  entry, leaving = chunk.q * decay.entry, chunk.k * decay.exit
  if chunk.beta is None:
    return _Chunk(met, entry, leaving, decay.through)
  # The writes are affine in the values and the state: u = from_v v - from_k S.
  size, width = chunk.k.shape
  beta = chunk.beta[:, None]
  overlap = beta * scores(chunk.k, chunk.k, between, masks)
  earlier = np.tri(size, k=-1, dtype=bool)
  own = jnp.where(np.eye(size, dtype=bool), beta, 0)
  solved = solve_unit_lower(
    jnp.where(earlier, overlap, 0),
    jnp.concatenate([own, beta * chunk.k * decay.entry], 1),
  )
  from_v, from_k = jnp.split(solved, [size], 1)
  through = jnp.where(np.eye(width, dtype=bool), decay.through[:, None], 0)
  return _Chunk(
    met @ from_v,
    entry - met @ from_k,
    from_v.T @ leaving,
    through - leaving.T @ from_k,
  )


def summarize(chunk, masks):
  """Moves the levels, and adds each token's write to its level."""
  return _summary(chunk, masks, _matrices(chunk, masks))


def _summary(chunk, masks, matrices):
  count = chunk.scale.shape[1] - 1
  position = _position(chunk)
  # Tokens of padding have position 0.
  end = jnp.max(jnp.where(masks.exit, position, -1)) + 1
  places = np.arange(1, count + 1, dtype=np.int32)[:, None]
  moves = _level(end, _ranges(position, count), count)[None] == places
  moves = moves.astype(matrices.exit.dtype)
  held = (_level(end, position, count)[None] == places).astype(moves.dtype)
  update = jnp.einsum("nj,jk,jv->nkv", held, matrices.exit, chunk.v)
  return Summary(Transition(matrices.through, moves), update)


def compose(earlier, later):
  """Multiplies the transitions and the moves."""
  first, second = earlier.transition, later.transition
  return Summary(
    Transition(_apply(second.matrix, first.matrix), second.moves @ first.moves),
    advance(later, earlier.update),
  )


def advance(summary, state):
  """Adds up the levels that move; all levels have the same transition."""
  matrix, moves = summary.transition
  moved = jnp.einsum("ij,jkv->ikv", moves, state)
  if matrix.ndim == 1:
    return matrix[None, :, None] * moved + summary.update
  return jnp.einsum("kj,njv->nkv", matrix, moved) + summary.update


def _apply(matrix, other):
  return matrix * other if matrix.ndim == 1 else matrix @ other


def read(chunk, masks, state):
  """Weighs the tokens of the chunk and the levels before it."""
  return _read(chunk, _matrices(chunk, masks), state)


def _read(chunk, matrices, state):
  count = chunk.scale.shape[1] - 1
  position = _position(chunk)
  inside = _level(position[:, None], position[None], count)
  before = _level(position[:, None], _ranges(position, count)[None], count)
  y = (matrices.met * _pick(chunk.scale, inside)) @ chunk.v
  recalled = jnp.einsum("ck,nkv->cnv", matrices.entry, state)
  weights = _pick(chunk.scale, before)
  return y + jnp.einsum("cn,cnv->cv", weights, recalled)


def read_and_advance(chunk, masks, state):
  """Makes the matrices of the chunk once."""
  matrices = _matrices(chunk, masks)
  after = advance(_summary(chunk, masks, matrices), state)
  return _read(chunk, matrices, state), after


def _zero(token):
  """The empty levels [N, K, V]."""
  shape = token.scale.shape[1] - 1, token.k.shape[1], token.v.shape[1]
  return jnp.zeros(shape, wide(token.k, token.v))


FAMILY = Family(summarize, compose, advance, read, read_and_advance, zero=_zero)
OP = Op(
  "log_linear_attention",
  _recurrence,
  {
    "k": "... L h K",
    "q": "... L h K",
    "v": "... L H V",
    "scale": "... L H M",
    "position": "... L E F",
    "log_decay": "... L H | ... L H K",
    "beta": "... L H",
  },
  y="... L H V",
  state="... H N K V",
  within={"beta": (0, 2)},
  like="v",
)
