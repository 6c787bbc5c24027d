"""Token shift: replaces each token by the one before it."""

import jax
import jax.numpy as jnp

from jaxmodels.layers.common import wide
from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.segments import starts

__all__ = ["token_shift"]


@by_letters(("B L D", "B D"), x="B L D", state="B D", segment_ids="B L")
def token_shift(
  x: jax.Array,
  state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """y_t = x_{t-1}, or 0 if token t starts a segment.

  RWKV mixes y_t with x_t, channel by channel (Peng et al. 2023,
  arXiv:2305.13048). `segment_ids`, `reverse` and `axis_name`: see
  `jaxmodels.ops`.

  Args:
    x: [B, L, D].
    state: [B, D], the token before the first one; None is zeros.
    segment_ids: [B, L] integers, a run of equal ids per segment, or None.
    reverse: Whether y_t = x_{t+1}.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`.

  Returns:
    y [B, L, D] in the dtype of x, and the last token (in reverse, the first),
    [B, D] in float32 or wider.

  Raises:
    ValueError: A shape or dtype is wrong; names the argument.
  """
  checks.rank_at_least("token_shift", "x", x, 3, "[B, L, D]")
  batch, length, width = x.shape
  checks.dtype("token_shift", "x", x, jnp.floating, "real floating point")
  checks.segment_ids("token_shift", segment_ids, (batch, length))
  before = jnp.sum(jnp.zeros_like(x), 1)
  if state is not None:
    checks.shape("token_shift", "state", state, (batch, width), "[B, D]")
    before = state.astype(x.dtype)
  if length == 0:
    return x, before.astype(wide(x.dtype))
  ids = segment_ids
  if reverse:
    x, ids = jnp.flip(x, 1), None if ids is None else jnp.flip(ids, 1)
  before, last = before[:, None], x[:, -1:]
  if axis_name is not None:
    before = halo.from_previous(last, before, axis_name, reverse)
    last = halo.from_last(last, axis_name, reverse)
  y = jnp.concatenate([before, x[:, :-1]], 1)
  if ids is not None:
    fresh = starts(ids, halo.id_before(ids, axis_name, reverse))
    y = jnp.where(fresh[..., None], 0, y)
  if reverse:
    y = jnp.flip(y, 1)
  return y, last[:, 0].astype(wide(x.dtype))
