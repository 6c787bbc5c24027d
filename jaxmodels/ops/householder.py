"""Householder products: several steps of the delta rule per token.

DeltaProduct (Siems et al. 2025, arXiv:2502.10297): the transition of a token
is a product of M generalised Householder matrices. It can be a rotation or a
permutation that no single Householder matrix is. The M steps of a token run as
M tokens of the delta rule: the first one decays, and y reads the last one.
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
  """M steps of the delta rule per token.

      S_{t,0} = diag(exp(log_decay_t)) S_{t-1}
      S_{t,m} = S_{t,m-1} + beta_{t,m} k_{t,m} (v_{t,m} - S_{t,m-1}^T k_{t,m})^T
      S_t     = S_{t,M},    y_t = S_t^T q_t

  M is the number of steps per token. The decay acts once per token, before the
  first step. With `reverse`, tokens run from the last to the first, and the
  steps of a token still run from 1 to M. The op does not normalise keys.

  Cost: that of `delta_rule` on L M tokens.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, H, K].
    k: [..., L, M, H, K].
    v: [..., L, M, H, V].
    beta: [..., L, M, H], in [0, 2].
    log_decay: None, [..., L, H] or [..., L, H, K]; at most 0, -inf allowed.
    initial_state: [..., H, K, V].
    method: as for `delta_rule`.
    chunk_size: steps (not tokens) per chunk, as for `delta_rule`.

  Returns:
    y [..., L, H, V], and the final state [..., H, K, V].
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
  if reverse:  # The delta rule will reverse the steps too.
    k, v, beta = (jnp.flip(x, len(batch) + 1) for x in (k, v, beta))
  first, last = (steps - 1, 0) if reverse else (0, steps - 1)

  def join(x):  # [..., L, M, ...] to [..., L M, ...].
    return x.reshape(*batch, length * steps, *x.shape[len(batch) + 2 :])

  def place(x, at):  # x at one of the M steps, and zeros at the others.
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
  """Checks the shapes that `delta_rule` does not get."""
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
