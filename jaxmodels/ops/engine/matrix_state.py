"""What ops with a state [K, V] a head share: checks, batch axes, defaults."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.exporting import at_most
from jaxmodels.ops.engine.method import NARROW_KEYS, default_chunk_size, run
from jaxmodels.ops.engine.platform import platform, wide
from jaxmodels.ops.engine.recurrence import Family


def run_matrix_state(
  op: str,
  family: Family,
  tokens: Any,
  initial_state: jax.Array | None,
  *,
  segment_ids: jax.Array | None,
  reverse: bool,
  method: str,
  chunk_size: int | None,
  axis_name: str | None,
  cached: int = 0,
  by_token: bool = False,
  prepare: Callable[[Any], Any] = lambda tokens: tokens,
) -> tuple[jax.Array, jax.Array]:
  """Checks and runs an op.

  On a CPU "auto" is "chunked"; but a gradient is "chunk_parallel" while all
  chunks at once stay in the cache, and where only the value is asked
  "recurrent" is quicker for narrow keys, if a chunk has far more to do than its
  tokens one by one. On accelerators it is "chunk_parallel", but on a TPU
  "chunked" where all chunks at once have more to do, or more to keep: see
  `_on_accelerators`.

  Args:
    op: its name, for messages and for the scope in the compiled program.
    family: the recurrence.
    tokens: a NamedTuple with k [..., L, H, K], v [..., L, H, V] and maybe q,
      a and b like k, beta [..., L, H] with a write_gate that is None or like
      v, and log_decay [..., L, H] or like k. Beside a write gate beta may be
      like k.
    initial_state: [..., H, K, V] or None for zero.
    segment_ids: [..., L] or None.
    reverse: as for `run`.
    method: as the user gave it.
    chunk_size: as the user gave it.
    axis_name: as for `run`.
    cached: numbers of k up to which the chunks stay in a CPU's cache; none
      where all at once have more to do, such as the transitions of a family
      that otherwise has `read_and_advance`.
    by_token: whether the tokens of a chunk have less to do one by one.
    prepare: makes the tokens that the family takes of those given, once these
      are checked.

  Returns:
    y [..., L, H, V] in the dtype of v, the final state [..., H, K, V].
  """
  initial_state, segment_ids = arrays(
    op, initial_state=initial_state, segment_ids=segment_ids
  )
  _check(op, tokens, initial_state, segment_ids)
  *batch, _, _, _ = tokens.k.shape
  gate = tokens.log_decay
  per_key = decays_per_key(gate, tokens.k)
  tokens = prepare(tokens)
  if initial_state is None:
    initial_state = _zero_state(tokens)
  dtype = wide(initial_state, tokens.k, tokens.v)

  def fold(x):  # Leading batch axes become one.
    return x.reshape(math.prod(batch), *x.shape[len(batch) :])

  if gate is not None and not per_key:
    tokens = tokens._replace(log_decay=gate[..., None])

  narrow = tokens.k.shape[-1] <= NARROW_KEYS
  with jax.named_scope(op):
    y, state = run(
      op,
      family,
      jax.tree.map(fold, tokens),
      fold(initial_state.astype(dtype)),
      None if segment_ids is None else fold(segment_ids),
      reverse=reverse,
      method=method,
      chunk_size=chunk_size,
      default=default_chunk_size(short=per_key or narrow),
      on_cpu=(
        "recurrent" if by_token and narrow else "chunked",
        "chunk_parallel" if at_most(tokens.k.size, cached) else "chunked",
      ),
      elsewhere=_on_accelerators(family, per_key),
      axis_name=axis_name,
      dtype=tokens.v.dtype,
    )
  y = y.reshape(*batch, *y.shape[1:])
  state = state.reshape(*batch, *state.shape[1:])
  checks.finite(op, y=y, final_state=state)
  return y, state


def _on_accelerators(family: Family, per_key: bool) -> str:
  """What "auto" is there, by what the compiler for a TPU expects.

  If the family defines `read_and_advance` or decays per key channel, a TPU
  takes "chunked": "chunk_parallel" would build `[K, K]` transitions, or the
  decays of all chunks, and needs 10 times the memory for the same or twice the
  cycles. Exception: the delta rule with few narrow heads, where "chunked" takes
  1.5 times as many cycles (benchmarks/NOTES.md). On a GPU "chunk_parallel" is a
  guess; it is not measured.
  """
  spares = per_key or family.read_and_advance is not None
  return "chunked" if platform() == "tpu" and spares else "chunk_parallel"


def decays_per_key(log_decay: jax.Array | None, k: jax.Array) -> bool:
  """Whether each key channel decays by itself: log_decay is like k."""
  return log_decay is not None and log_decay.ndim == k.ndim


def _zero_state(tokens: Any) -> jax.Array:
  """Zeros [..., H, K, V], made from the tokens so as to be placed like them."""
  k, v = (jnp.sum(x[..., :1, :, :], -3) for x in (tokens.k, tokens.v))
  outer = k[..., :, None] * v[..., None, :].astype(k.dtype)
  return jnp.zeros_like(outer, dtype=wide(k, v))


def _check(op, tokens, initial_state, segment_ids):
  """Checks shapes and dtypes, and numbers where that is switched on."""
  k, v = tokens.k, tokens.v
  checks.rank_at_least(op, "k", k, 3, "[..., L, H, K]")
  keys = k.shape
  checks.shape(op, "v", v, (*keys[:-1], None), "[..., L, H, V]")
  for name, x in tokens._asdict().items():
    if x is not None:
      checks.dtype(op, name, x, jnp.floating, "real floating point")
  for name in ("q", "a", "b"):
    if hasattr(tokens, name):
      x = getattr(tokens, name)
      checks.shape(op, name, x, keys, "[..., L, H, K] like k")
  if hasattr(tokens, "beta"):
    _check_gates(op, tokens.beta, tokens.write_gate, k, v)
  _check_log_decay(op, tokens.log_decay, k)
  if initial_state is not None:
    state_shape = (*keys[:-3], *keys[-2:], v.shape[-1])
    checks.shape(
      op, "initial_state", initial_state, state_shape, "[..., H, K, V]"
    )
    checks.dtype(
      op, "initial_state", initial_state, jnp.floating, "real floating point"
    )
  checks.segment_ids(op, segment_ids, keys[:-2])
  finite = tokens._replace(log_decay=None)._asdict()
  checks.finite(op, **finite, initial_state=initial_state)


def _check_gates(op, beta, write_gate, k, v):
  """Beside a write gate beta may be one per key channel."""
  per_key = write_gate is not None and beta.ndim == k.ndim
  expected = k.shape if per_key else k.shape[:-1]
  letters = "[..., L, H], or [..., L, H, K] beside a write_gate,"
  checks.shape(op, "beta", beta, expected, letters)
  checks.between(op, "beta", beta, 0, 2)
  if write_gate is not None:
    checks.shape(op, "write_gate", write_gate, v.shape, "[..., L, H, V] like v")
    checks.between(op, "write_gate", write_gate, 0, 2)


def _check_log_decay(op, log_decay, k):
  """A log decay is one a head or one a key channel."""
  if log_decay is None:
    return
  per_key = decays_per_key(log_decay, k)
  checks.shape(
    op,
    "log_decay",
    log_decay,
    k.shape if per_key else k.shape[:-1],
    "[..., L, H, K] like k" if per_key else "[..., L, H] or [..., L, H, K]",
  )
  checks.log_decay(op, log_decay)
