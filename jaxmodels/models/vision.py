"""Images: patches, and the classifier of images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.models.backbone import State
from jaxmodels.models.classifier import Classifier
from jaxmodels.ops.engine import checks

__all__ = ["ImageClassifier", "from_patches", "to_patches"]


def to_patches(images: jax.Array, size: int) -> jax.Array:
  """Cuts images [B, H, W, C] into squares, [B, H W / size^2, size^2 C].

  The patches are in rows, and so are the pixels of a patch.
  """
  batch, height, width, channels = images.shape
  checks.require(
    height % size == 0 and width % size == 0,
    f"to_patches: the size of a patch must divide the {height} x {width} "
    f"pixels of the image, got {size}",
  )
  rows, columns = height // size, width // size
  x = images.reshape((batch, rows, size, columns, size, channels))
  x = jnp.swapaxes(x, 2, 3)
  return x.reshape((batch, rows * columns, size * size * channels))


def from_patches(patches: jax.Array, size: int, columns: int) -> jax.Array:
  """The images [B, H, W, C] of patches [B, L, size^2 C]: see `to_patches`.

  Args:
    patches: The patches, `columns` of them in a row.
    size: The number of pixels along a side of a patch.
    columns: The number of patches in a row.
  """
  batch, length, features = patches.shape
  rows, channels = length // columns, features // size**2
  x = patches.reshape((batch, rows, columns, size, size, channels))
  x = jnp.swapaxes(x, 2, 3)
  return x.reshape((batch, rows * size, columns * size, channels))


class ImageClassifier(Classifier, kw_only=True):
  """The class of an image: patches, a stack of mixers, pooling, logits.

    x_t = W patch_t + b + p_t;  logits = V pool_t(stack(x)_t) + c

  with one learned p_t per patch, initially normal with a deviation of 0.02. It
  is `Classifier` with patches as tokens, row by row, so its other fields are
  those of `Classifier`; the stack should read in all directions:

  - `vig` with a `gated_mlp` is ViG (Liao et al. 2024, arXiv:2405.18425);
  - `bidirectional` with `Mamba` and no channel mixer is Vision Mamba (Zhu et
    al. 2024, arXiv:2401.09417);
  - `selective_scan_2d` is VMamba (Liu et al. 2024, arXiv:2401.10166) at one
    resolution, and with eight directions that of MambaAD;
  - `cross_scan` has any causal mixer along the same scans;
  - `polyline_attention` is softmax attention with decays in 2-D (Zhao et al.
    2025, arXiv:2506.15940).

  These mixers have a field `columns`, the number of patches in a row, which is
  the width of the images divided by `patch_size`. Departure: no class token, as
  in ViG and VMamba.

  Attributes:
    patch_size: The number of pixels along a side of a patch.
    positions: Whether there are p_t. Without them the model takes images of any
      size, if its mixers do.
  """

  patch_size: int = 1
  positions: bool = True
  pooling: str = "mean"

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
    mask: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Classifies images.

    Args:
      x: Images [B, H, W, C], real floating point.
      state: As in `Classifier`. Mixers that read in all directions have none.
      segment_ids: As in `Classifier`, [B, L] with L patches.
      mask: [B, L], nonzero where a patch counts in the pooling; None if all do.

    Returns:
      Logits [B, classes] in float32 or wider, and the state of the stack.

    Raises:
      ValueError: A field or an argument is wrong; the message names it in one
        line.
    """
    checks.require(
      self.axis_name is None,
      "ImageClassifier: images cannot be sharded along their patches: use a "
      "mesh without the axis sequence",
    )
    return super().__call__(x, state, segment_ids=segment_ids, mask=mask)

  def _embedded(self, inputs: jax.Array) -> jax.Array:
    """Images as [B, L, D]; also checks the fields."""
    name = type(self).__name__
    check_fields(self, "classes", "patch_size")
    checks.shape(name, "x", inputs, (None,) * 4, "[B, H, W, C]")
    checks.dtype(name, "x", inputs, jnp.floating, "real floating point")
    dtype = wide(self.dtype)
    patches = to_patches(inputs.astype(dtype), self.patch_size)
    x = projection(self, self.width, "embedding", use_bias=True, dtype=dtype)(
      patches
    )
    if self.positions:
      init, shape = nn.initializers.normal(0.02), x.shape[1:]
      x = x + self.param("positions", init, shape, self.param_dtype)[None]
    return x
