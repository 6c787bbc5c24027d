"""Anomalies in images: features that a decoder fails to reconstruct."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.mixers.registry import Entry
from jaxmodels.models.u_shape import (
  Contracting,
  Convolutions,
  Expanding,
  embedded_patches,
)
from jaxmodels.models.vision import from_patches, to_patches

__all__ = ["AnomalyDetector"]

HILBERT = ("selective_scan_2d", {"curve": "hilbert", "directions": 8})


class AnomalyDetector(nn.Module):
  """Reconstructs the features of an encoder through a narrow layer.

  A convolutional encoder has features at several resolutions. They are merged
  at the coarsest one into `bottleneck` channels per place, and a decoder of
  state-space blocks reconstructs the features of all resolutions from these.
  Both are trained on normal images only, so the features of an anomalous image
  are reconstructed worse: see `train.losses.Reconstruction`.

  He et al. 2024, "MambaAD: Exploring State Space Models for Multi-class
  Unsupervised Anomaly Detection", arXiv:2404.06564. Departures: the encoder is
  not pretrained on other images, but trained in the same run to tell the
  classes of the normal images apart, and the decoder does not change it; the
  decoder has hybrid state-space blocks, but not the convolutions beside them.

  Attributes:
    classes: The number of classes of images.
    widths: D at each resolution, from the finest to the coarsest.
    depth: The number of layers of each stack of mixers.
    bottleneck: The channels per place between encoder and decoder.
    mixers: The mixers of the decoder; see `Backbone`. The model sets their
      field `columns`, if they have it.
    encoder: The mixers of the encoder.
    patch_size: The number of pixels along a side of a patch.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
  """

  classes: int
  widths: tuple[int, ...]
  depth: int
  bottleneck: int
  mixers: tuple[Entry, ...] = (HILBERT,)
  encoder: tuple[Entry, ...] = (Convolutions(1),)
  patch_size: int = 1
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> dict[str, Any]:
    """Reconstructs features.

    Args:
      x: Images [B, H, W, C], real floating point. The sides must be multiples
        of the patch size times 2^(number of widths - 1).

    Returns:
      "logits" [B, classes] of the encoder; and "features", for each resolution
      the pair of the encoder's features and the decoder's, [B, L, D] each, the
      finest first. No gradient goes from the pairs to the encoder.

    Raises:
      ValueError: A field or x is wrong; the message names it in one line.
    """
    check_fields(self, "classes", "depth", "bottleneck", "patch_size")
    coarsest, dtype = 2 ** (len(self.widths) - 1), wide(self.dtype)
    first, columns = embedded_patches(self, x)
    fields: Mapping[str, Any] = {
      "widths": self.widths,
      "depth": self.depth,
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    found = Contracting(mixers=self.encoder, **fields, name="encoder")(
      first, columns
    )
    pooled = jnp.mean(found[-1].astype(dtype), 1)
    logits = projection(
      self, self.classes, "head", scale=0.1, use_bias=True, dtype=dtype
    )(pooled)
    wanted = [lax.stop_gradient(features) for features in found]
    narrow = self._merged(wanted, columns)
    low = projection(self, self.widths[-1], "widen")(narrow)
    decoder = Expanding(
      mixers=self.mixers, **fields, bottom=True, name="decoder"
    )
    outputs = decoder(low, columns // coarsest)
    pairs = []
    for i, (a, b) in enumerate(zip(wanted, reversed(outputs), strict=True)):
      b = projection(self, self.widths[i], f"feature_{i}", dtype=dtype)(b)
      pairs.append((a.astype(dtype), b))
    return {"logits": logits, "features": pairs}

  @nn.nowrap
  def _merged(self, features: list[jax.Array], columns: int) -> jax.Array:
    """All features at the coarsest resolution, in `bottleneck` channels."""
    coarsest = 2 ** (len(features) - 1)
    parts = [
      to_patches(from_patches(x, 1, columns >> i), coarsest >> i)
      for i, x in enumerate(features)
    ]
    return projection(self, self.bottleneck, "bottleneck")(
      jnp.concatenate(parts, -1)
    )
