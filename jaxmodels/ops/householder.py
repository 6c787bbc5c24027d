"""Householder products: several delta steps per token.

DeltaProduct (Siems et al. 2025, arXiv:2502.10297): the transition of a token
is a product of M generalised Householder matrices, which reaches rotations
and permutations that one cannot. The M steps of a token are M tokens of the
delta rule, of which the first decays and the last is read.
"""

import jax
import jax.numpy as jnp

from jaxmodels.ops.delta_rule import delta_rule
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.checks import require_length
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.recurrence import Method


@by_letters(
  ("... L H V", "... H K V"),
  q="... L H K",
  k="... L M H K",
  v="... L M H V",
  beta="... L M H",
  log_decay="... L H | ... L H K",
  initial_state="... H K V",
)
def householder_product(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  log_decay: jax.Array | None = None,
  initial_state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """M steps of the delta rule a token.

      S_{t,0} = diag(exp(log_decay_t)) S_{t-1}
      S_{t,m} = S_{t,m-1} + beta_{t,m} k_{t,m} (v_{t,m} - S_{t,m-1}^T k_{t,m})^T
      S_t     = S_{t,M},    y_t = S_t^T q_t

  The decay acts once per token, before the first step. With `reverse` tokens
  run from the last to the first, the steps of a token still from 1 to M.
  Keys are taken as they are, and no scale is hidden. The letter M is the
  steps of a token here.

  Cost: that of the delta rule on L M tokens.

  Args:
    q: [..., L, H, K].
    k: [..., L, M, H, K].
    v: [..., L, M, H, V].
    beta: [..., L, M, H], in [0, 2].
    log_decay: None, [..., L, H] or [..., L, H, K]; at most 0, -inf allowed.
    initial_state: [..., H, K, V]; zero by default.
    chunk_size: steps (not tokens) per chunk.

  The other arguments are those of every op: see `jaxmodels.ops`.

  Returns:
    y [..., L, H, V] in the dtype of v, and the final state [..., H, K, V] in
    float32 or wider.
  """
  op = "householder_product"
  q, k, v, beta, log_decay, initial_state, segment_ids = arrays(
    op,
    q=q,
    k=k,
    v=v,
    beta=beta,
    log_decay=log_decay,
    initial_state=initial_state,
    segment_ids=segment_ids,
  )
  _check(op, q, k, v, beta, log_decay, initial_state, segment_ids)
  if method == "associative":
    instead = '"auto", "recurrent" or "chunked"'
    require_length(op, k.shape[-4], 'method "associative"', instead)
  *batch, length, steps, heads, _ = k.shape
  if reverse:  # The delta rule will turn the steps too.
    k, v, beta = (jnp.flip(x, len(batch) + 1) for x in (k, v, beta))
  first, last = (steps - 1, 0) if reverse else (0, steps - 1)

  def join(x):  # [..., L, M, ...] to [..., L M, ...].
    return x.reshape(*batch, length * steps, *x.shape[len(batch) + 2 :])

  def place(x, at):  # One step of M, the others zero.
    axis = len(batch) + 1
    pad = [(0, 0)] * (x.ndim + 1)
    pad[axis] = (at, steps - 1 - at)
    return join(jnp.pad(jnp.expand_dims(x, axis), pad))

  with jax.named_scope(op):
    y, state = delta_rule(
      place(q, last),
      join(k),
      join(v),
      join(beta),
      None if log_decay is None else place(log_decay, first),
      initial_state,
      segment_ids=None
      if segment_ids is None
      else jnp.repeat(segment_ids, steps, axis=-1),
      reverse=reverse,
      method=method,
      chunk_size=chunk_size,
      axis_name=axis_name,
    )
  y = y.reshape(*batch, length, steps, heads, v.shape[-1])
  return y[..., last, :, :], state


def _check(op, q, k, v, beta, log_decay, initial_state, segment_ids):
  """Checks the shapes that the delta rule does not see."""
  steps = k.ndim < 4 or k.shape[-3] > 0
  checks.require(steps, f"{op}: k must be [..., L, M > 0, H, K], got M = 0")
  checks.arguments(
    op,
    k=(k, "... L M H K"),
    q=(q, "... L H K"),
    v=(v, "... L M H V"),
    beta=(beta, "... L M H"),
    log_decay=(log_decay, "... L H | ... L H K"),
    initial_state=(initial_state, "... H K V"),
    segment_ids=(segment_ids, "... L"),
  )
  checks.integers(op, segment_ids=segment_ids)
  checks.log_decay(op, log_decay)
  checks.between(op, "beta", beta, 0, 2)
