"""U-shaped networks: stacks of mixers at falling and rising resolutions."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.mixers.cross_scan import GridMixer
from jaxmodels.mixers.registry import Entry, make_module
from jaxmodels.models.backbone import Backbone
from jaxmodels.models.vision import from_patches, to_patches
from jaxmodels.ops.engine import checks

__all__ = ["Contracting", "Convolutions", "Expanding", "UNet"]


class Convolutions(GridMixer):
  """y = conv(SiLU(conv(x))): the residual block of convolutional networks.

  Both convolutions have D inputs and D outputs per place of the image and no
  bias. In a stack with the layout "pre_norm" they are the blocks of He et al.
  2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, with
  one norm per block. Images that are packed in a row need `rows`.

  The other fields are those of `Mixer`.

  Attributes:
    columns: As in `GridMixer`.
    rows: As in `GridMixer`.
    kernel_width: The kernel width of both convolutions.
  """

  kernel_width: int = 3

  @nn.nowrap
  def mix_images(
    self, x: jax.Array, segments: jax.Array | None, layer: Any, depth: int
  ) -> jax.Array:
    """The equation above."""
    del segments, layer, depth
    check_fields(self, "kernel_width")
    grid = self.grid(x.shape[1])
    y = x.reshape((-1, *grid, self.width))
    for name, scale in (("first", 1.0), ("second", self.output_scale)):
      y = nn.Conv(
        self.width,
        (self.kernel_width, self.kernel_width),
        use_bias=False,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        kernel_init=nn.initializers.variance_scaling(
          scale**2, "fan_in", "truncated_normal"
        ),
        name=name,
      )(y if name == "first" else nn.silu(y))
    return y.reshape(x.shape)


class _Stages(nn.Module):
  """Stacks of mixers, one per resolution; the fields of `Contracting`."""

  widths: tuple[int, ...]
  depth: int
  mixers: tuple[Entry, ...]
  mlp: Entry = "gated_mlp"
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.nowrap
  def stack(self, x: jax.Array, columns: int, name: str) -> jax.Array:
    """A stack on images x [B, L, D] of `columns` columns."""
    width = x.shape[-1]
    stack = Backbone(
      width,
      self.depth,
      tuple(_on_grid(entry, width, columns) for entry in self.mixers),
      mlp=self.mlp,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )
    return stack(x)[0]

  @nn.nowrap
  def dense(self, features: int, name: str) -> nn.Dense:
    """A dense map without bias."""
    return projection(self, features, name)


class Contracting(_Stages):
  """Stacks at falling resolutions: four places become one between them.

  Attributes:
    widths: D at each resolution, from the finest to the coarsest.
    depth: The number of layers of each stack.
    mixers: The mixers of each stack; see `Backbone`. The model sets their field
      `columns`, if they have it.
    mlp: The channel mixer of every layer; see `Backbone`.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  @nn.compact
  def __call__(self, x: jax.Array, columns: int) -> list[jax.Array]:
    """Maps x [B, L, D] to the outputs of all stacks, the finest first."""
    found = []
    for i, width in enumerate(self.widths):
      if i > 0:
        image = from_patches(x, 1, columns)
        x = self.dense(width, f"merge_{i}")(to_patches(image, 2))
        columns //= 2
      x = self.stack(x, columns, f"stage_{i}")
      found.append(x)
    return found


class Expanding(_Stages):
  """Stacks at rising resolutions: one place becomes four between them.

  The other fields are those of `Contracting`.

  Attributes:
    bottom: Whether there is a stack at the coarsest resolution too.
  """

  bottom: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    columns: int,
    skips: Sequence[jax.Array] | None = None,
  ) -> list[jax.Array]:
    """Maps a coarse x to the outputs of all stacks, the finest last.

    Args:
      x: [B, L, D] at the coarsest resolution.
      columns: Its number of columns.
      skips: What `Contracting` returned, which is added at each resolution
        after a dense map; None for nothing.
    """
    found = []
    if self.bottom:
      x = self.stack(x, columns, f"stage_{len(self.widths) - 1}")
      found.append(x)
    for i in reversed(range(len(self.widths) - 1)):
      parts = self.dense(4 * self.widths[i], f"expand_{i}")(x)
      image = from_patches(parts, 2, columns)
      x, columns = to_patches(image, 1), 2 * columns
      if skips is not None:
        x = x + self.dense(self.widths[i], f"skip_{i}")(skips[i])
      x = self.stack(x, columns, f"stage_{i}")
      found.append(x)
    return found


def embedded_patches(model: Any, x: jax.Array) -> tuple[jax.Array, int]:
  """Returns the embedded patches [B, L, D] of images, and those per row.

  Args:
    model: A module with the fields `widths`, `patch_size` and `dtype`.
    x: [B, H, W, C].

  Raises:
    ValueError: Names x, or the side that the coarsest grid does not divide.
  """
  name, unit = type(model).__name__, 2 ** (len(model.widths) - 1)
  unit *= model.patch_size
  checks.shape(name, "x", x, (None,) * 4, "[B, H, W, C]")
  checks.dtype(name, "x", x, jnp.floating, "real floating point")
  for side, size in (("H", x.shape[1]), ("W", x.shape[2])):
    checks.require(
      size % unit == 0,
      f"{name}: {side} must be a multiple of patch_size * 2^(len(widths) - 1) "
      f"= {unit}, got {size}",
    )
  dtype = wide(model.dtype)
  patches = to_patches(x.astype(dtype), model.patch_size)
  embed = projection(
    model, model.widths[0], "embedding", use_bias=True, dtype=dtype
  )
  return embed(patches), x.shape[2] // model.patch_size


class UNet(nn.Module):
  """The class of every pixel of an image: a U-shape of stacks of mixers.

  Patches of the image go through stacks at falling resolutions, and back up
  through as many, which also get the outputs of the way down at their
  resolution. Ronneberger et al. 2015, "U-Net", arXiv:1505.04597, has
  convolutions: `Convolutions`. With mixers of state spaces it is the common
  form of their segmentation models: `selective_scan_2d` is that of VM-UNet
  (Ruan & Xiang 2024, arXiv:2402.02491), and `Convolutions` and state-space
  layers in turn that of U-Mamba (Ma et al. 2024, arXiv:2401.04722). Departures:
  RMSNorm; a sum of the skip connections in place of a concatenation; no deep
  supervision.

  Attributes:
    classes: The number of classes.
    widths: D at each resolution, from the finest to the coarsest.
    depth: The number of layers of each stack.
    mixers: The mixers of each stack; see `Backbone`. The model sets their field
      `columns`, if they have it.
    mlp: The channel mixer of every layer; see `Backbone`.
    patch_size: The number of pixels along a side of a patch.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  classes: int
  widths: tuple[int, ...]
  depth: int
  mixers: tuple[Entry, ...]
  mlp: Entry = "gated_mlp"
  patch_size: int = 1
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Classifies pixels.

    Args:
      x: Images [B, H, W, C], real floating point. The sides must be multiples
        of the patch size times 2^(number of widths - 1).

    Returns:
      Logits [B, H, W, classes] in float32 or wider.

    Raises:
      ValueError: A field or x is wrong; the message names it in one line.
    """
    check_fields(self, "classes", "depth", "patch_size")
    dtype, coarsest = wide(self.dtype), 2 ** (len(self.widths) - 1)
    first, columns = embedded_patches(self, x)
    fields: Mapping[str, Any] = {
      "widths": self.widths,
      "depth": self.depth,
      "mixers": self.mixers,
      "mlp": self.mlp,
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    down = Contracting(**fields, name="down")(first, columns)
    up = Expanding(**fields, name="up")(down[-1], columns // coarsest, down)
    logits = projection(
      self,
      self.patch_size**2 * self.classes,
      "head",
      scale=0.1,
      use_bias=True,
      dtype=dtype,
    )([*down, *up][-1])
    return from_patches(logits, self.patch_size, columns)


def _on_grid(entry: Entry, width: int, columns: int) -> nn.Module:
  """The mixer of an entry of a stack, with its width and its columns."""
  module: Any
  if isinstance(entry, nn.Module):
    module = entry.clone(parent=None, name=None, width=width)
  else:
    module = make_module("mixer", entry, {}, {"width": width})
  if "columns" in module.__dataclass_fields__:
    module = module.clone(columns=columns)
  return module
