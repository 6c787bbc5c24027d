"""Polyline path masked attention: softmax attention with decays in 2-D."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.layers.common import check_fields, divide
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.engine.decay import between
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.segments import count_changes

__all__ = ["PolylineAttention", "polyline_mask"]


def polyline_mask(across: jax.Array, down: jax.Array) -> jax.Array:
  """The mean of the decays along both polylines between two places of a grid.

  One polyline goes along the row of the first place and then along the column
  of the second; the other goes along the column first. `across[i, j]` is the
  log decay of the step between the columns j - 1 and j of row i, and
  `down[i, j]` that of the step between the rows i - 1 and i of column j, so the
  mask is symmetric. It is made of one matrix per row and one per column.

  Args:
    across: [R, C], at most 0.
    down: [R, C], at most 0.

  Returns:
    [R C, R C], the places row by row.
  """
  rows, columns = across.shape

  def both(steps: jax.Array) -> jax.Array:
    ahead = between(steps)
    later = np.tri(steps.shape[0], dtype=bool)
    return jnp.where(later, ahead, ahead.T)

  in_row = jax.vmap(both)(across)  # [R, C, C]
  in_column = jax.vmap(both)(down.T)  # [C, R, R]
  # From (i, j) along row i to (i, l), then along column l to (k, l).
  first = in_row[:, :, None, :] + jnp.moveaxis(in_column, 0, 2)[:, None]
  first = jnp.exp(first).reshape((rows * columns, rows * columns))
  return (first + first.T) / 2


class PolylineAttention(Mixer):
  """Softmax attention times a mask of decays in 2-D; not causal.

  Per head, over the places s of an image, with M of `polyline_mask`:

    q_t, k_t, v_t = W_q x_t / sqrt(K), W_k x_t, W_v x_t
    a_t, b_t = sigmoid(W_a x_t + c_a + 2), sigmoid(W_b x_t + c_b + 2)
    y_t = W_o concat_heads(sum_s M_ts softmax_s(q_t . k_s) v_s)

  where a are the decays along rows, and b those along columns. With one column
  there is no a. A segment is an image of `columns` columns, row by row, in
  whole rows. With one row or one column, M is the mask of Mamba-2 in both
  directions. Zhao et al. 2025, "Polyline Path Masked Attention for Vision
  Transformer", arXiv:2506.15940. Departures: the mean of both polylines in
  place of their sum; LeCun initialisation.

  The cost is quadratic in L, as that of softmax attention. On a sharded
  sequence every device computes the whole sequence.

  The other fields are those of `Mixer`; `reverse`, `method` and `chunk_size`
  have no effect, and there is no state.

  Attributes:
    heads: H.
    columns: The number of columns of an image; 1 for a sequence.
  """

  heads: int = 4
  columns: int = 1

  def mix(
    self, x: jax.Array, state: None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, tuple[()]]:
    """The equation above."""
    del state
    check_fields(self, "heads", "columns")
    width, length = divide(self, "heads", self.width, "D"), x.shape[1]
    if self.axis_name is not None:
      x = halo.gather(x, 1, self.axis_name, False)
      if segment_ids is not None:
        segment_ids = halo.gather(segment_ids, 1, self.axis_name, False)
    checks.require_length("PolylineAttention", x.shape[1], "a grid")
    checks.require(
      x.shape[1] % self.columns == 0,
      f"PolylineAttention: columns must divide L = {x.shape[1]}, got "
      f"{self.columns}",
    )
    q, k, v = (
      self.heads_of(name, x, self.heads, width).astype(self.wide)
      for name in ("query", "key", "value")
    )
    down = self._decay("down", x)
    across = jnp.zeros_like(down)
    if self.columns > 1:
      across = self._decay("across", x)
    y = _attend(
      q * width**-0.5, k, v, across, down, self.columns, segment_ids
    ).astype(self.dtype)
    if self.axis_name is not None:
      start = halo.rank(self.axis_name, False) * length
      y = lax.dynamic_slice_in_dim(y, start, length, 1)
    return self.project_out(y), ()

  def init_state(self, batch_size: int) -> tuple[()]:
    """No state; one token, as for other mixers, is no image of `columns`."""
    del batch_size
    return ()

  @nn.nowrap
  def _decay(self, name: str, x: jax.Array) -> jax.Array:
    """Log decays [B, L, H], initially near those of sigmoid(2)."""
    logits = self.dense(name, self.heads, use_bias=True, dtype=self.wide)(x)
    return nn.log_sigmoid(logits + 2)


@by_letters(
  "B L H V",
  q="B L H K",
  k="B L H K",
  v="B L H V",
  across="B L H",
  down="B L H",
)
def _attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  across: jax.Array,
  down: jax.Array,
  columns: int,
  segment_ids: jax.Array | None,
) -> jax.Array:
  """The masked attention, [B, L, H, V]."""
  batch, length, heads, _ = q.shape
  scores = jnp.einsum("bthk,bshk->bhts", q, k)
  if segment_ids is not None:
    ids = count_changes(segment_ids, segment_ids[:, :1])
    same = ids[:, None, :, None] == ids[:, None, None, :]
    scores = jnp.where(same, scores, -jnp.inf)
  weights = jax.nn.softmax(scores, -1)
  grid = (batch * heads, length // columns, columns)
  across, down = (jnp.moveaxis(x, 2, 1).reshape(grid) for x in (across, down))
  mask = jax.vmap(polyline_mask)(across, down)
  weights = weights * mask.reshape(weights.shape)
  return jnp.einsum("bhts,bshv->bthv", weights, v)
