"""Mixers for images: a causal mixer along several scans of the grid."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.layers.common import check_fields
from jaxmodels.layers.depthwise import DepthwiseConvolution
from jaxmodels.layers.norms import LayerNorm
from jaxmodels.layers.scan_orders import DIRECTIONS, inverse, scan_order
from jaxmodels.mixers import contract
from jaxmodels.mixers.gla import GLA
from jaxmodels.mixers.mamba import Mamba
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.engine.explicit import run_by_letters
from jaxmodels.ops.engine.segments import count_changes

__all__ = ["CrossScan", "GridMixer", "SelectiveScan2D"]


class GridMixer(Mixer):
  """The base of mixers that read images, each row by row; not causal.

  A subclass defines `mix_images`. Images never see one another. Segments must
  be whole images. (In images of one column they can be any runs of places.) On
  a sharded sequence every device computes the whole sequence. `reverse` has no
  effect, and there is no state.

  Attributes:
    columns: The number of columns of an image; 1 for a sequence.
    rows: The number of rows of an image; None if a row of the batch is one
      image, which then has L / columns rows.
  """

  columns: int = 1
  rows: int | None = None

  def mix(
    self,
    x: jax.Array,
    state: None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
  ) -> tuple[jax.Array, tuple[()]]:
    """`mix_images` of all images."""
    del state
    check_fields(self, "columns", "rows")
    length = x.shape[1]
    if self.axis_name is not None:
      x = halo.gather(x, 1, self.axis_name, False)
      if segment_ids is not None:
        segment_ids = halo.gather(segment_ids, 1, self.axis_name, False)
    checks.require_length(type(self).__name__, x.shape[1], "a grid")
    size = self.columns * (self.rows or 1)
    checks.require(
      x.shape[1] % size == 0,
      f"{type(self).__name__}: {'rows * ' if self.rows else ''}columns must "
      f"divide L = {x.shape[1]}, got {size}",
    )
    segments = self._segments(x, segment_ids)
    y = self.mix_images(x, segments, layer, depth)
    if self.axis_name is not None:
      start = halo.rank(self.axis_name, False) * length
      y = lax.dynamic_slice_in_dim(y, start, length, 1)
    return y, ()

  @nn.nowrap
  def mix_images(
    self, x: jax.Array, segments: jax.Array | None, layer: Any, depth: int
  ) -> jax.Array:
    """The equation, y [B, L, D] for all images at once.

    Args:
      x: [B, L, D], the images one after the other.
      segments: [B, L], numbers that differ from image to image and from
        segment to segment; None if there is one image and no segments.
      layer: As in `jaxmodels.mixers.contract`.
      depth: The same.
    """
    raise NotImplementedError(f"{type(self).__name__} must define mix_images")

  def init_state(self, batch_size: int) -> tuple[()]:
    """No state; one token, as for other mixers, is no image of `columns`."""
    del batch_size
    return ()

  @nn.nowrap
  def grid(self, length: int) -> tuple[int, int]:
    """The rows and the columns of an image."""
    return self.rows or length // self.columns, self.columns

  @nn.nowrap
  def _segments(
    self, x: jax.Array, segment_ids: jax.Array | None
  ) -> jax.Array | None:
    """The `segments` of `mix_images`."""
    length = x.shape[1]
    rows, columns = self.grid(length)
    images = np.arange(length) // max(rows * columns, 1)
    if segment_ids is None:
      if rows * columns == length:
        return None
      # Made from x so that it is sharded like x.
      zeros = jnp.sum(jnp.zeros_like(x, jnp.int32), 2, jnp.int32)
      return zeros + jnp.asarray(images, jnp.int32)[None]
    runs = count_changes(segment_ids, segment_ids[:, :1])
    return runs + jnp.asarray(images, runs.dtype)[None]

  @nn.nowrap
  def new_depthwise(
    self, name: str, length: int, kernel_width: int
  ) -> DepthwiseConvolution:
    """A depthwise convolution over the images."""
    rows, columns = self.grid(length)
    return DepthwiseConvolution(
      rows,
      columns,
      kernel_width,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  @nn.nowrap
  def along_scans(
    self,
    mixer: nn.Module,
    x: jax.Array,
    segments: jax.Array | None,
    curve: str,
    directions: int,
    tied: bool,
    extras: dict[str, Any],
  ) -> jax.Array:
    """The sum of what a mixer writes along each of the first directions.

    Args:
      mixer: Bound to the scope of its caller. Its parameters get a first axis
        of the directions, unless they are tied.
      x: [B, L, F].
      segments: As in `mix_images`.
      curve: A name of `jaxmodels.layers.scan_orders.CURVES`.
      directions: How many of the eight directions there are.
      tied: Whether all directions have the same parameters.
      extras: As in `contract.mix_in_stack`.

    Returns:
      [B, L, F].
    """
    checks.require(
      1 <= directions <= DIRECTIONS,
      f"{type(self).__name__}: directions must be from 1 to {DIRECTIONS}, got "
      f"{directions}",
    )
    length = x.shape[1]
    rows, columns = self.grid(length)
    starts = np.arange(0, length, max(rows * columns, 1))[:, None]
    orders = [
      (starts + scan_order(curve, rows, columns, d)).ravel()
      if length
      else np.arange(0)
      for d in range(directions)
    ]

    def run(mixer: nn.Module, x: jax.Array, segments: Any) -> jax.Array:
      return contract.mix_in_stack(mixer, x, None, segments, extras)[0]

    every = nn.vmap(
      run,
      variable_axes={"params": None} if tied else {True: 0},
      split_rngs={True: not tied},
      in_axes=(0, None if segments is None else 0),
      axis_size=directions,
    )
    if segments is not None:
      segments = jnp.stack([_read(segments, order) for order in orders])
    scans = jnp.stack([_read(x, order) for order in orders])
    ys = every(mixer, scans, segments)
    back = [inverse(order) for order in orders]
    return sum(
      (_read(ys[d], back[d]) for d in range(1, directions)),
      start=_read(ys[0], back[0]),
    )


def _read(x: jax.Array, order: np.ndarray) -> jax.Array:
  """The sequence x[:, order] of x [B, L] or [B, L, F]."""
  letters = "B L D"[: 2 * x.ndim - 1]
  return run_by_letters(
    "scan",
    lambda arrays: jnp.take(
      arrays["x"], order, axis=1, unique_indices=True, mode="clip"
    ),
    {"x": x},
    {"x": letters},
    letters,
  )


class CrossScan(GridMixer):
  """A causal mixer of the library along several scans of an image.

    y = 1/K sum_k unscan_k(mixer_k(scan_k(x)))

  where scan_k reads the places of the grid in the order
  `scan_order(curve, rows, columns, k)` of `jaxmodels.layers.scan_orders`, and
  unscan_k puts the outputs back. With the curve "sweep", K of 2 has the scans
  of Vision Mamba (Zhu et al. 2024, arXiv:2401.09417), and K of 4 those of
  VMamba (Liu et al. 2024, arXiv:2401.10166); K of 8 with any curve has those of
  MambaAD (He et al. 2024, arXiv:2404.06564). Departures: any mixer in place of
  a selective scan, all of its parameters per direction, and the mean in place
  of the sum. `SelectiveScan2D` is the block of VMamba and MambaAD.

  With tied parameters and eight directions, turning or mirroring a square image
  whose side is a power of two turns or mirrors y, because the eight orders are
  those of all turned and mirrored grids.

  The other fields are those of `Mixer`; `method` and `chunk_size` are those of
  the mixer inside.

  Attributes:
    mixer: A module that is not bound; None for GLA. The model sets its width,
      dtypes and output_scale.
    columns: As in `GridMixer`.
    rows: As in `GridMixer`.
    curve: A name of `jaxmodels.layers.scan_orders.CURVES`.
    directions: K, the number of scans, from 1 to 8.
    tied: Whether all directions have the same parameters.
  """

  mixer: nn.Module | None = None
  curve: str = "sweep"
  directions: int = 4
  tied: bool = False

  @nn.nowrap
  def mix_images(
    self, x: jax.Array, segments: jax.Array | None, layer: Any, depth: int
  ) -> jax.Array:
    """The equation above."""
    inner = self._inner().copy(parent=self, name="scans")
    extras = {"layer": layer, "depth": depth}
    y = self.along_scans(
      inner, x, segments, self.curve, self.directions, self.tied, extras
    )
    return y / self.directions

  @nn.nowrap
  def _inner(self) -> nn.Module:
    """The mixer inside with the fields of this one, bound to no scope."""
    inner = GLA(self.width) if self.mixer is None else self.mixer
    names = (
      "width", "output_scale", "dtype", "param_dtype", "method", "chunk_size",
    )  # fmt: skip
    own = self.given_to(inner, names)
    return inner.copy(parent=None, name=None, **own)


class SelectiveScan2D(GridMixer):
  """VMamba's block: selective scans of an image, in several orders.

    z, u = W_z x, SiLU(conv(W_u x) + b)
    y = W_o (LayerNorm(sum_k unscan_k(S_k(scan_k(u)))) * SiLU(z))

  with a depthwise convolution in 2-D. S_k is the selective scan of `Mamba`,
  with B, C, dt, A and D of its own for each of the K directions, and
  E = expand D channels. scan_k is as in `CrossScan`.

  Liu et al. 2024, "VMamba: Visual State Space Model", arXiv:2401.10166: the
  curve "sweep" and K of 4. With the curve "hilbert" and K of 8 it is the hybrid
  state-space block of MambaAD (He et al. 2024, arXiv:2404.06564); `scan_order`
  says how its directions differ. Departure: LeCun initialisation.

  The other fields are those of `Mixer`.

  Attributes:
    columns: As in `GridMixer`.
    rows: As in `GridMixer`.
    curve: A name of `jaxmodels.layers.scan_orders.CURVES`.
    directions: K, the number of scans, from 1 to 8.
    expand: E / D.
    state_width: N, the state per channel.
    step_rank: The rank of the projection of dt, by default D / 16, rounded up.
    kernel_width: The kernel width of the convolution, odd.
  """

  curve: str = "sweep"
  directions: int = 4
  expand: int = 2
  state_width: int = 16
  step_rank: int | None = None
  kernel_width: int = 3

  @nn.nowrap
  def mix_images(
    self, x: jax.Array, segments: jax.Array | None, layer: Any, depth: int
  ) -> jax.Array:
    """The equation above."""
    del layer, depth
    check_fields(self, "expand", "state_width", "step_rank")
    inner = self.expand * self.width
    z = self.dense("gate", inner)(x)
    u = self.dense("input", inner)(x)
    convolution = self.new_depthwise(
      "convolution", x.shape[1], self.kernel_width
    )
    u = nn.silu(convolution(u, segments))
    scan = _SelectiveScan(
      inner,
      inner_width=inner,
      state_width=self.state_width,
      step_rank=self.step_rank or -(-self.width // 16),
      method=self.method,
      chunk_size=self.chunk_size,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      one_bit=self.one_bit,
      parent=self,
      name="scans",
    )
    y = self.along_scans(
      scan, u, segments, self.curve, self.directions, False, {}
    )
    y = self.new_norm("norm", LayerNorm)(y) * nn.silu(z)
    return self.project_out(y)


class _SelectiveScan(Mamba):
  """The scan of Mamba, without its gate, convolution and projections."""

  def mix(
    self, x: jax.Array, state: Any, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, Any]:
    """Maps u [B, L, E] to y [B, L, E]."""
    del state
    y, _ = self._scan(x, None, segment_ids)
    return y.astype(self.dtype), ()

  def init_state(self, batch_size: int) -> tuple[()]:
    """No state: an image is scanned as a whole."""
    del batch_size
    return ()
