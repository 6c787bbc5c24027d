"""Bidirectional linear attention: LION.

    Y = rownorm(Q K^T * M) V,    M_ij = the decay between tokens i and j

(Afzal et al. 2025, arXiv:2502.16249). The op computes it as a masked product of
L x L, or as one recurrence from each end, in any form of the engine. It is
LION-LIT without decay, LION-D with a fixed decay per head, and LION-S with a
decay per token.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.checks import require_length
from jaxmodels.ops.engine.decay import between, clip
from jaxmodels.ops.engine.division import divide
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.method import METHODS
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.segments import count_changes
from jaxmodels.ops.linear_attention import linear_attention


@by_letters(
  "... L H V",
  q="... L H K",
  k="... L H K",
  v="... L H V",
  log_decay="... L H",
)
def bidirectional(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log_decay: jax.Array | None = None,
  *,
  normalize: bool = False,
  floor: float = 1e-6,
  segment_ids: jax.Array | None = None,
  method: str = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """Linear attention over both directions, each token counted once.

      y_i  = sum_j M_ij (q_i . k_j) v_j
      M_ij = exp(sum_{t=j}^{i-1} log_decay_t)    for j < i
      M_ii = 1
      M_ij = exp(sum_{t=i+1}^{j} log_decay_t)    for j > i

  With `normalize`, y_i is divided by `max(|sum_j M_ij (q_i . k_j)|, floor)`.

  As in the paper, the write of token j decays by the decays of token j and of
  the tokens between j and i, and not by that of the reader i. (The causal ops
  of this library include the reader's decay and not the writer's. With a fixed
  decay per head the two agree.) Flipping the sequence flips the output. Token i
  is in both recurrences, so the op subtracts it once.

  There is no state, and no `reverse`: every token reads all others.

  Cost: twice that of `linear_attention`, chunked. "quadratic" takes
  2 L (K + V) + 4 L^2 flops per token and head; the 4 L^2 compute the decays.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    q: [..., L, H, K].
    k: [..., L, H, K].
    v: [..., L, H, V].
    log_decay: None, or [..., L, H]; at most 0, -inf allowed.
    normalize: whether to divide by the sum of the row, for positive feature
      maps.
    floor: the smallest divisor, above 0.
    method: "quadratic", the masked product, or as for `linear_attention`
      without "pallas".
    axis_name: not for "quadratic".

  Returns:
    y [..., L, H, V].
  """
  op = "bidirectional"
  q, k, v, log_decay, segment_ids = arrays(
    op, q=q, k=k, v=v, log_decay=log_decay, segment_ids=segment_ids
  )
  _check(op, q, k, v, log_decay, floor, method, axis_name, segment_ids)
  dtype = wide(q, k, v)
  written = v.astype(dtype)
  if normalize:
    written = jnp.concatenate([written, jnp.ones_like(written[..., :1])], -1)
  with jax.named_scope(op):
    if method == "quadratic":
      q, k = q.astype(dtype), k.astype(dtype)
      y = _full(q, k, written, log_decay, segment_ids)
    else:
      options = {
        "segment_ids": segment_ids,
        "method": method,
        "chunk_size": chunk_size,
        "axis_name": axis_name,
      }
      y = _both_ways(q, k, written, log_decay, options)
    if normalize:
      y = divide(y[..., :-1], jnp.maximum(jnp.abs(y[..., -1:]), floor))
  checks.finite(op, y=y)
  return y.astype(v.dtype)


def _both_ways(q, k, v, log_decay, options):
  """Adds one recurrence from each end, and subtracts the token itself once."""
  past, future = _readers_decays(log_decay, options["axis_name"])
  y, _ = linear_attention(q, k, v, past, **options)
  from_end, _ = linear_attention(q, k, v, future, reverse=True, **options)
  own = jnp.sum(q.astype(v.dtype) * k.astype(v.dtype), axis=-1, keepdims=True)
  return y + from_end - own * v


def _readers_decays(log_decay, axis_name):
  """Log decays for `linear_attention`, forwards and in reverse.

  `linear_attention` applies the decay of the reader. So each token gets the
  decay of the token before it, or in reverse of the token after it.
  """
  if log_decay is None or log_decay.shape[-2] == 0:
    return log_decay, log_decay
  first, last = log_decay[..., :1, :], log_decay[..., -1:, :]
  before = behind = jnp.zeros_like(first)
  if axis_name is not None:
    before = halo.from_previous(last, before, axis_name, reverse=False)
    behind = halo.from_previous(first, behind, axis_name, reverse=True)
  past = jnp.concatenate([before, log_decay[..., :-1, :]], axis=-2)
  future = jnp.concatenate([log_decay[..., 1:, :], behind], axis=-2)
  return past, future


def _full(q, k, v, log_decay, segment_ids):
  """The masked product, with one row of scores per token."""
  scores = jnp.einsum("...ihk,...jhk->...hij", q, k)
  if log_decay is not None:
    log_decay = clip(log_decay.astype(q.dtype))
    past, _ = _readers_decays(log_decay, None)
    past, future = (
      jnp.vectorize(between, signature="(l)->(l,l)")(jnp.moveaxis(x, -1, -2))
      for x in (past, log_decay)
    )
    earlier = np.tri(q.shape[-3], dtype=bool)  # j <= i
    earlier = np.expand_dims(earlier, tuple(range(past.ndim - 2)))
    scores = scores * jnp.exp(jnp.where(earlier, past, future.mT))
  if segment_ids is not None:
    ids = count_changes(segment_ids, segment_ids[..., :1])
    same = ids[..., :, None] == ids[..., None, :]
    scores = jnp.where(same[..., None, :, :], scores, 0)
  return jnp.einsum("...hij,...jhv->...ihv", scores, v)


def _check(op, q, k, v, log_decay, floor, method, axis_name, segment_ids):
  """Checks shapes and dtypes, and numbers if `checks.numerics` is on."""
  checks.method(op, method, (*METHODS, "quadratic"))
  checks.require(
    method != "quadratic" or axis_name is None,
    f'{op}: method must not be "quadratic" on a sharded sequence '
    f"(axis_name={axis_name!r})",
  )
  checks.arguments(
    op,
    k=(k, "... L H K"),
    q=(q, "... L H K"),
    v=(v, "... L H V"),
    log_decay=(log_decay, "... L H"),
    segment_ids=(segment_ids, "... L"),
  )
  if method in ("quadratic", "associative"):
    form = f'method "{method}"'
    require_length(op, k.shape[-3], form, '"auto" or "recurrent"')
  checks.floating(op, q=q, k=k, v=v, log_decay=log_decay)
  checks.integers(op, segment_ids=segment_ids)
  checks.require(floor > 0, f"{op}: floor must be above 0, got {floor}")
  checks.log_decay(op, log_decay)
  checks.finite(op, q=q, k=k, v=v)
