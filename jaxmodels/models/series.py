"""Forecasters of time series: variates one by one, and variates as tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  projection,
  wide,
)
from jaxmodels.mixers.mamba import Mamba
from jaxmodels.mixers.registry import Entry, pick
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.ops.engine import checks

__all__ = ["Forecaster", "InvertedForecaster"]

HEADS = ("last", "flat")


class _Normalized(Backbone, kw_only=True):
  """The shared part of forecasters: reversible instance normalisation."""

  horizon: int
  normalize: bool = True
  floor: float = 1e-5

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Forecasts.

    Args:
      x: The look-back windows [B, L, C], real floating point.
      state: None: a window does not continue another one.
      segment_ids: None: a window is one sequence.

    Returns:
      The next steps [B, H, C] in float32 or wider, and the state of the stack
      at the end of the window.

    Raises:
      ValueError: A field or an argument is wrong; the message names it in one
        line.
    """
    name = type(self).__name__
    check_fields(self, "horizon")
    check_positive(self, "floor")
    checks.shape(name, "x", x, (None,) * 3, "[B, L, C]")
    checks.dtype(name, "x", x, jnp.floating, "real floating point")
    for what, value in (("state", state), ("segment_ids", segment_ids)):
      checks.require(
        value is None, f"{name}: {what} must be None: a window is one sequence"
      )
    checks.require(
      self.axis_name is None,
      f"{name}: windows cannot be sharded along their steps: use a mesh "
      "without the axis sequence",
    )
    x = x.astype(wide(self.dtype))
    if not self.normalize:
      return self._forecast(x)
    mean = jnp.mean(x, 1, keepdims=True)
    variance = jnp.var(x, 1, keepdims=True)
    # A constant window is only shifted: dividing would amplify its rounding.
    varies = variance > self.floor**2
    deviation = jnp.sqrt(jnp.where(varies, variance, 1))
    y, state = self._forecast((x - mean) / deviation)
    return y * deviation + mean, state

  def _stack(self, x: jax.Array) -> tuple[jax.Array, State]:
    """The stack on tokens [B, L, D]."""
    return super().__call__(x)

  def _forecast(self, x: jax.Array) -> tuple[jax.Array, State]:
    """The forecast [B, H, C] of normalised windows, and the state."""
    raise NotImplementedError

  def _dense(self, features: int, name: str, scale: float = 1.0) -> nn.Dense:
    """Maps of real numbers compute in float32 or wider."""
    return projection(
      self,
      features,
      name,
      scale=scale,
      use_bias=True,
      dtype=wide(self.dtype),
    )


class Forecaster(_Normalized, kw_only=True):
  """Forecasts each variate from its own past, with one stack for all variates.

  Per variate, with its mean m and deviation s over the L steps of the window:

    h_j = W (x_j - m) / s + b            per patch x_j of P steps
    y = m + s (V pool_j(stack(h)_j) + c)

  Normalisation per window, and its reversal, is that of Kim et al. 2022
  (RevIN, ICLR) without learned scales and shifts, so any number of variates can
  be read. Patches of a variate as tokens, and weights that all variates share,
  are those of PatchTST (Nie et al. 2023, arXiv:2211.14730), here without
  positions and around any mixer. These facts are exact:

  - a x + b instead of x, with a > 0, gives a y + b: see `floor`;
  - the forecast of a variate depends on that variate alone.

  With the head "last" and mixers that read any length, L is free. A `linear`
  map of the normalised window to the horizon, initially zero, can be added to
  the forecast; it is that of NLinear (Zeng et al. 2023, arXiv:2205.13504) and
  fixes L. It is a `Backbone`, whose fields are its other fields.

  Attributes:
    horizon: H, the number of steps of a forecast.
    normalize: Whether to normalise windows.
    floor: A variate whose deviation in the window is at most `floor` is shifted
      by its mean, but not scaled.
    patch_size: P, which must divide L.
    head: "last": the last token has the forecast; "flat": all tokens have,
      which fixes L.
    linear: Whether to add the linear map.
  """

  patch_size: int = 1
  head: str = "last"
  linear: bool = False

  def _forecast(self, x: jax.Array) -> tuple[jax.Array, State]:
    """See `_Normalized`."""
    check_fields(self, "patch_size")
    pick("head", self.head, dict.fromkeys(HEADS))
    batch, length, variates = x.shape
    checks.require(
      length % self.patch_size == 0,
      f"Forecaster: patch_size must divide the {length} steps of a window, got "
      f"{self.patch_size}",
    )
    series = jnp.swapaxes(x, 1, 2).reshape((batch * variates, length))
    tokens = series.reshape((len(series), -1, self.patch_size))
    h, state = self._stack(self._dense(self.width, "input")(tokens))
    h = h.astype(series.dtype)
    h = h[:, -1] if self.head == "last" else h.reshape((len(series), -1))
    y = self._dense(self.horizon, "output", 0.1)(h)
    if self.linear:
      y = y + self._dense(self.horizon, "linear", 0.0)(series)
    return jnp.swapaxes(y.reshape((batch, variates, -1)), 1, 2), state


class InvertedForecaster(_Normalized, kw_only=True):
  """S-Mamba: the tokens are variates, and mixers read them in both directions.

    h_c = W (x_c - m_c) / s_c + b;   y_c = m_c + s_c (V stack(h)_c + d)

  for the window x_c [L] of variate c, its mean m_c and its deviation s_c. Wang
  et al. 2024, "Is Mamba Effective for Time Series Forecasting?",
  arXiv:2403.11144: a Mamba in each direction over the variates, then a channel
  mixer. Variates as tokens are those of iTransformer (Liu et al. 2023,
  arXiv:2310.06625), which is this model with softmax attention over them.

  There are no positions, but a recurrence over variates depends on their order.
  These facts are exact:

  - a x_c + b instead of x_c, with a > 0, gives a y_c + b, and the other
    forecasts do not change: see `floor`;
  - any number of variates can be read, in training and later;
  - variates in reverse order have their forecasts in reverse order, if
    `Bidirectional` mixers are tied;
  - variates in any order have their forecasts in that order, if the mixers do
    not depend on the order, as ("lion", {"decay": "none"}) does not.

  Departures: RMS norms before the mixers where the paper has layer norms after
  the channel mixer; a gated channel mixer by default. It is a `Backbone`, whose
  fields are its other fields.

  Attributes:
    horizon: H, the number of steps of a forecast.
    normalize: Whether to normalise windows.
    floor: A variate whose deviation in the window is at most `floor` is shifted
      by its mean, but not scaled.
    mixers: As in `Backbone`; by default Mamba in both directions.
  """

  mixers: tuple[Entry, ...] = (("bidirectional", {"mixer": Mamba(1)}),)

  def _forecast(self, x: jax.Array) -> tuple[jax.Array, State]:
    """See `_Normalized`."""
    tokens = jnp.swapaxes(x, 1, 2)
    h, state = self._stack(self._dense(self.width, "input")(tokens))
    y = self._dense(self.horizon, "output", 0.1)(h.astype(x.dtype))
    return jnp.swapaxes(y, 1, 2), state
