"""Losses of images: a class per pixel, and anomalies by reconstruction."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from train.losses.base import Batch, Loss, Sums, classified, inverse, weighted

# Bins of the scores of `Reconstruction`, which are from 0 to 2.
BINS = 4096


@dataclasses.dataclass(frozen=True)
class Segmentation(Loss):
  """Cross-entropy plus 1 - Dice, of one class per pixel.

  The Dice coefficient of a class in an image is 2 |A and B| / (|A| + |B|) for
  the pixels A of the class and the pixels B with that prediction. Class 0 is
  the background, which has none. The loss has probabilities in place of
  predictions (Milletari et al. 2016, "V-Net", arXiv:1606.04797), and the sum is
  that of nnU-Net (Isensee et al. 2018, arXiv:1809.10486).

  Outputs are logits [B, H, W, C], and "targets" classes [B, H, W]. The metrics
  are "accuracy", that of the pixels, and "dice", the mean over images of the
  mean over the classes that the image has or that are predicted (1 if there are
  none).

  Attributes:
    dice_weight: The factor of 1 - Dice in the loss.
  """

  dice_weight: float = 1.0

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "accuracy": "max",
    "dice": "max",
  }

  @property
  def per_token(self) -> bool:
    """False: Dice is that of a whole image."""
    return False

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`."""
    logits, targets = outputs.astype(jnp.float32), batch["targets"]
    found = classified(logits, targets)
    found = {name: jnp.mean(x, axis=(1, 2)) for name, x in found.items()}
    classes = logits.shape[-1]
    truth = jax.nn.one_hot(targets, classes)
    guesses = jax.nn.one_hot(jnp.argmax(logits, -1), classes)
    overlap, size = _overlap(jax.nn.softmax(logits, -1), truth)
    soft = jnp.mean((overlap + 1) / (size + 1), -1)
    overlap, size = _overlap(guesses, truth)
    there = (size > 0).astype(jnp.float32)
    dice = overlap * inverse(size)
    count = jnp.sum(there, -1)
    mean = jnp.sum(dice * there, -1) * inverse(count)
    found["dice"] = jnp.where(count > 0, mean, 1.0)
    found["loss"] = found["loss"] + self.dice_weight * (1 - soft)
    return weighted(found, batch)


def _overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """2 |A and B| and |A| + |B| of all classes but the first, [B, C - 1]."""
  a, b = a[..., 1:], b[..., 1:]
  return 2 * jnp.sum(a * b, (1, 2)), jnp.sum(a, (1, 2)) + jnp.sum(b, (1, 2))


@dataclasses.dataclass(frozen=True)
class Reconstruction(Loss):
  """Trains `jaxmodels.models.AnomalyDetector`, and scores anomalies.

  The loss is the squared error of the reconstructed features, summed over the
  resolutions, plus the cross-entropy of the classes. The score of an image is
  the mean over resolutions and places of 1 - cos, for the cosine of the angle
  between a feature and its reconstruction (He et al. 2024, arXiv:2404.06564,
  which takes the largest value of a map, because its anomalies are small).

  "targets" are classes [B], and "anomalous" is 1 for images of a class that
  the training split does not have. These images have no part in the loss and in
  "accuracy". The metric "auroc" is the probability that an anomalous image has
  a higher score than a normal one, over all pairs of the validation split. It
  is counted in 4,096 bins of scores, and 0.5 if either kind is missing.
  """

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "accuracy": "max",
    "auroc": "max",
  }

  @property
  def per_token(self) -> bool:
    """False: a score belongs to a whole image."""
    return False

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; "normal" and "anomalous" are counts per bin."""
    logits, pairs = outputs["logits"], outputs["features"]
    anomalous = batch["anomalous"]
    normal = {**batch, "weights": batch["weights"] * (1 - anomalous)}
    error = sum(jnp.mean(jnp.square(a - b), (1, 2)) for a, b in pairs)
    # The left-out class may have no logit.
    targets = jnp.minimum(batch["targets"], logits.shape[-1] - 1)
    found = classified(logits, targets)
    sums = weighted(
      {
        "loss": found["loss"] + error,
        "accuracy": found["accuracy"],
        "reconstruction_error": jnp.asarray(error),
      },
      normal,
    )
    bins = (scores(pairs) * (BINS / 2)).astype(jnp.int32)
    counts = jax.nn.one_hot(jnp.clip(bins, 0, BINS - 1), BINS)
    rows = {"normal": normal["weights"], "anomalous": batch["weights"]}
    rows["anomalous"] = rows["anomalous"] * anomalous
    return {**sums, **{name: w @ counts for name, w in rows.items()}}

  def means(self, sums: Mapping[str, Any]) -> dict[str, Any]:
    """See `Loss.means`; also "auroc"."""
    rest = dict(sums)
    normal, anomalous = rest.pop("normal"), rest.pop("anomalous")
    below = jnp.cumsum(normal) - normal / 2
    pairs = jnp.sum(normal) * jnp.sum(anomalous)
    area = jnp.sum(anomalous * below) * inverse(pairs)
    return {**super().means(rest), "auroc": jnp.where(pairs > 0, area, 0.5)}


def scores(pairs: Any) -> jax.Array:
  """The score [B] of pairs of features and reconstructions, [B, L, D] each."""

  def distance(a: jax.Array, b: jax.Array) -> jax.Array:
    norms = jnp.sum(a * a, -1) * jnp.sum(b * b, -1)
    cosine = jnp.sum(a * b, -1) * jax.lax.rsqrt(norms + 1e-12)
    return jnp.mean(1 - cosine, -1)

  return jnp.mean(jnp.stack([distance(a, b) for a, b in pairs]), 0)
