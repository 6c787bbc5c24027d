"""The loss of separated sources: SI-SDR of the best pairing."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from train.losses.base import Batch, Loss, Sums, weighted

# SI-SDR is between -80 dB and 80 dB.
FLOOR = 1e-8


def si_sdr(estimates: jax.Array, targets: jax.Array) -> jax.Array:
  """The scale-invariant signal-to-distortion ratio, in dB.

  With e and s the estimate and the target, less their means over time,

    a = e . s / |s|^2,   SI-SDR = 10 log10(|a s|^2 / |a s - e|^2)

  (Le Roux et al. 2018, "SDR - half-baked or well done?", arXiv:1811.02508). To
  both powers is added 1e-8 |e|^2, so that perfect estimates have 80 dB.

  Args:
    estimates: [..., T].
    targets: [..., T]; the axes before T are broadcast.

  Returns:
    [...], and -80 dB for an estimate of zeros.
  """
  e, s = (x - jnp.mean(x, -1, keepdims=True) for x in (estimates, targets))
  power = jnp.sum(s * s, -1, keepdims=True)
  # A target of zeros has no part in any estimate.
  scale = jnp.sum(e * s, -1, keepdims=True) / jnp.where(power > 0, power, 1)
  part = scale * s
  floor = FLOOR * jnp.sum(e * e, -1)
  # Far below the power of any sound; the ratio for e = 0 is then 1e-8.
  tiny = 1e-20
  signal = jnp.sum(part * part, -1) + floor + FLOOR * tiny
  noise = jnp.sum(jnp.square(part - e), -1) + floor + tiny
  return (10 / math.log(10)) * (jnp.log(signal) - jnp.log(noise))


@dataclasses.dataclass(frozen=True)
class Separation(Loss):
  """Minus the SI-SDR of the best pairing of estimates and sources.

  Outputs are estimates [B, S, T], "targets" the sources [B, S, T] and "inputs"
  their mixture [B, T]. The model may give the sources in any order: the loss is
  that of the permutation with the largest mean SI-SDR over the sources, found
  by trying all S! (Kolbaek et al. 2017, "Utterance-level Permutation Invariant
  Training", arXiv:1703.06284).

  The metrics are "si_sdr" in dB, and "si_sdr_improvement": the same less the
  mean SI-SDR of the mixture itself.
  """

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "si_sdr": "max",
    "si_sdr_improvement": "max",
  }

  @property
  def per_token(self) -> bool:
    """False: the ratio is that of a whole signal."""
    return False

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`.

    Raises:
      ValueError: Outputs and targets have different shapes.
    """
    estimates = outputs.astype(jnp.float32)
    targets = batch["targets"].astype(jnp.float32)
    if estimates.shape != targets.shape:
      raise ValueError(
        f"the outputs have shape {estimates.shape}, the targets"
        f" {targets.shape}: they must be equal"
      )
    count = targets.shape[1]
    # [B, S, S]: each estimate beside each source.
    pairs = si_sdr(estimates[:, :, None], targets[:, None])
    orders = jnp.array(list(itertools.permutations(range(count))))
    means = jnp.mean(pairs[:, jnp.arange(count)[None], orders], -1)
    found = jnp.max(means, -1)
    mixture = batch["inputs"].astype(jnp.float32)[:, None]
    before = jnp.mean(si_sdr(mixture, targets), -1)
    return weighted(
      {"loss": -found, "si_sdr": found, "si_sdr_improvement": found - before},
      batch,
    )
