"""Positions of tokens in their own segments."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import halo, segments
from jaxmodels.ops.engine.explicit import by_letters

__all__ = ["advance_positions"]


@by_letters(("B L", "B"), entering="B", segment_ids="B L")
def advance_positions(
  entering: jax.Array,
  length: int,
  segment_ids: jax.Array | None,
  axis_name: str | None = None,
  reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Positions that count from the start of each token's own segment.

  Args:
    entering: [B], the number of earlier tokens of the segment that continues
      from the state: segment 0, or in reverse that of the last token.
    length: L.
    segment_ids: [B, L] integers, a run of equal ids per segment, or None.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`. The
      arrays [B] are then those of the whole sequence.
    reverse: Whether to count from the end of each segment.

  Returns:
    positions [B, L], and [B], the number of tokens so far in the segment of the
    last token (in reverse, the first).
  """
  if length == 0:
    return entering[:, None] + jnp.arange(0, dtype=entering.dtype)[
      None
    ], entering
  counted = jnp.arange(length, dtype=entering.dtype)[None]
  if axis_name is not None:
    rank = halo.rank(axis_name, reverse)
    counted = counted + length * rank.astype(counted.dtype)
  positions = entering[:, None] + counted
  if segment_ids is not None:
    ids = jnp.flip(segment_ids, 1) if reverse else segment_ids
    start = _starts(ids, counted, axis_name, reverse)
    positions = jnp.where(start < 0, positions, counted - start)
  after = positions[:, -1] + 1
  if axis_name is not None:
    after = halo.from_last(after, axis_name, reverse)
  return jnp.flip(positions, 1) if reverse else positions, after


def _starts(
  ids: jax.Array, counted: jax.Array, axis_name: str | None, reverse: bool
) -> jax.Array:
  """Where each token's segment starts, [B, L]; -1 if before the sequence.

  Starts are counted in the whole sequence, not in the device's shard, and in
  the order of the run.
  """
  fresh = segments.starts(ids, halo.id_before(ids, axis_name, reverse))
  starts = jnp.where(fresh, counted, -1)
  if axis_name is not None:
    # Tokens before the first start of a shard take the latest earlier start.
    latest = halo.gather(jnp.max(starts, 1)[None], 0, axis_name, reverse)
    mine = halo.rank(axis_name, reverse)
    earlier = jnp.arange(latest.shape[0], dtype=mine.dtype) < mine
    entering = jnp.max(jnp.where(earlier[:, None], latest, -1), 0)
    starts = jnp.maximum(starts, entering[:, None])
  return lax.cummax(starts, axis=1)
