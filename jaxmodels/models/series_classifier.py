"""TSCMamba: series are classified from wavelets and from convolutions."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.layers.wavelets import geometric_scales, wavelet_transform
from jaxmodels.mixers.registry import Entry, pick
from jaxmodels.models.backbone import Backbone
from jaxmodels.ops.engine import checks

__all__ = ["SeriesClassifier", "tango"]

VIEWS = ("convolutions", "line", "both")
FUSIONS = ("sum", "product")
POOLINGS = ("mean", "flat")


def tango(read: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """read(x) + read(x in reverse order), for x [B, L, D].

  The second summand stays in reverse order. So x and its inversion have the
  same result, exactly.
  """
  return read(x) + read(x[:, ::-1])


class SeriesClassifier(nn.Module):
  """The class of a series, by TSCMamba.

  Each of the C variates is a token. It is seen as X numbers in two ways:

  - w: the absolute values of its continuous wavelet transform at S scales (see
    `jaxmodels.layers.wavelets`), in patches of P scales by P steps. A
    convolution over the patch and the variates, then a linear map;
  - t: "convolutions", a linear map of the maximum over time and of the share of
    positive values (here the mean of a sigmoid) of convolutions with kernels of
    9 steps, dilated by 1, 2, 4, ... as far as they fit in the series, as in
    ROCKET (Dempster et al. 2020, arXiv:1910.13051); or "line", a linear map of
    the series; or "both", one half each.

  With one learned number a, initially 1:

    f = gelu(a t + (2 - a) w), or gelu(a t * (2 - a) w)
    z = norm([w, f, t])                                         [C, 3 X]
    y = tango(stack_1, z) + tango(stack_2, z^T)^T
    logits = V_2 (V_1 pool_c y_c + b_1) + b_2

  stack_1 reads the variates as tokens, and stack_2 the 3 X numbers as tokens of
  width C; `tango` reads them in both orders with the same weights. The pooling
  is the mean over the variates, or "flat", all of them side by side, which
  knows which variate is which. Wavelets and kernels do not see the level of a
  series, and a line does.

  Ahamed & Cheng 2024, arXiv:2406.04419. Departures: layers have an RMS norm
  before the mixer, and stacks one at their end; the wavelets are complex,
  computed in the model and not resized; kernels are trained, where ROCKET's are
  random (with `train_kernels=False` they stay as they are drawn); "flat".

  Initial logits are near zero. There is no state.

  Attributes:
    classes: The number of classes.
    width: X.
    depth: The number of layers of each stack.
    mixers: Of stack_1, see `Backbone`; the width is 3 X.
    feature_mixers: Of stack_2, whose width is C; () for no stack_2.
    view: The second view: "convolutions", "line" or "both".
    fusion: "sum" or "product".
    pooling: "mean" or "flat".
    scales: S, whose periods are from 2 steps to the length of the series.
    patch_size: P.
    kernels: The number of kernels per dilation.
    train_kernels: Whether the kernels are trained.
    dtype: The dtype of the stacks; views are float32 or wider.
    param_dtype: The dtype of the parameters.
  """

  classes: int
  width: int
  depth: int = 1
  mixers: tuple[Entry, ...] = ("mamba",)
  feature_mixers: tuple[Entry, ...] = ("mamba",)
  view: str = "convolutions"
  fusion: str = "sum"
  pooling: str = "mean"
  scales: int = 16
  patch_size: int = 4
  kernels: int = 32
  train_kernels: bool = True
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Classifies series.

    Args:
      x: [B, L, C], real floating point, with L and C as in `init`. Series of
        different lengths get zeros at their end.

    Returns:
      Logits [B, classes] in float32 or wider.

    Raises:
      ValueError: A field or x is wrong; the message names it in one line.
    """
    sizes = ("classes", "depth", "scales", "patch_size", "kernels")
    check_fields(self, *sizes)
    pick("view", self.view, dict.fromkeys(VIEWS))
    pick("fusion", self.fusion, dict.fromkeys(FUSIONS))
    pick("pooling", self.pooling, dict.fromkeys(POOLINGS))
    name = type(self).__name__
    checks.shape(name, "x", x, (None,) * 3, "[B, L, C]")
    checks.dtype(name, "x", x, jnp.floating, "real floating point")
    checks.require(
      x.shape[1] >= 2, f"{name}: L must be at least 2, got {x.shape[1]}"
    )
    checks.require(
      self.view != "both" or self.width % 2 == 0,
      f"{name}: the view 'both' needs an even width, got {self.width}",
    )
    x = jnp.swapaxes(x.astype(wide(self.dtype)), 1, 2)
    z = self._fused(self._wavelets(x), self._second_view(x))
    y = tango(self._stack("variates", self.mixers), z)
    if self.feature_mixers:
      read = self._stack("features", self.feature_mixers)
      y = y + jnp.swapaxes(tango(read, jnp.swapaxes(z, 1, 2)), 1, 2)
    hidden = self._dense(y.shape[-1] // 2, "hidden")
    flat = self.pooling == "flat"
    y = hidden(y.reshape((len(y), -1)) if flat else jnp.mean(y, 1))
    return self._dense(self.classes, "head", 0.1)(y)

  def _fused(self, w: jax.Array, t: jax.Array) -> jax.Array:
    """[w, f, t] after the norm, [B, C, 3 X]."""
    ones = nn.initializers.ones
    a = self.param("share", ones, (1, 1, 1), self.param_dtype).astype(w.dtype)
    one, other = a * t, (2 - a) * w
    f = nn.gelu(one + other if self.fusion == "sum" else one * other)
    norm = nn.LayerNorm(
      dtype=w.dtype, param_dtype=self.param_dtype, name="fused_norm"
    )
    return norm(jnp.concatenate([w, f, t], -1))

  def _wavelets(self, x: jax.Array) -> jax.Array:
    """The view w [B, C, X] of x [B, C, L]."""
    periods = geometric_scales(self.scales, 2, x.shape[-1])
    energy = jnp.abs(wavelet_transform(x, periods))
    # Patches at the ends are filled up with zeros.
    size = (self.patch_size,) * 2
    patches = nn.Conv(
      x.shape[1],
      size,
      strides=size,
      padding=tuple((0, -n % self.patch_size) for n in energy.shape[2:]),
      dtype=x.dtype,
      param_dtype=self.param_dtype,
      name="patches",
    )(jnp.moveaxis(energy, 1, -1))
    patches = jnp.moveaxis(patches, -1, 1).reshape((*x.shape[:2], -1))
    return self._dense(self.width, "wavelets")(patches)

  def _second_view(self, x: jax.Array) -> jax.Array:
    """The view t [B, C, X] of x [B, C, L]."""
    width = self.width // 2 if self.view == "both" else self.width
    parts = []
    if self.view != "line":
      parts.append(self._dense(width, "convolutions")(self._convolved(x)))
    if self.view != "convolutions":
      parts.append(self._dense(width, "line")(x))
    return jnp.concatenate(parts, -1)

  def _convolved(self, x: jax.Array) -> jax.Array:
    """The maximum and the share of positive values per kernel."""
    batch, variates, length = x.shape
    series = x.reshape((batch * variates, length, 1))
    found = []
    for dilation in dilations(length):
      kernel, bias = (
        self.param(f"{name}_{dilation}", init, shape, self.param_dtype)
        for name, init, shape in (
          ("kernel", _centred, (KERNEL_WIDTH, 1, self.kernels)),
          ("bias", nn.initializers.uniform(1.0), (1, 1, self.kernels)),
        )
      )
      if not self.train_kernels:
        kernel, bias = jax.lax.stop_gradient((kernel, bias))
      y = jax.lax.conv_general_dilated(
        series,
        kernel.astype(x.dtype),
        window_strides=(1,),
        padding="SAME",
        rhs_dilation=(dilation,),
        dimension_numbers=("NLC", "LIO", "NLC"),
      )
      y = y + bias.astype(x.dtype)
      found += [jnp.max(y, 1), jnp.mean(nn.sigmoid(y), 1)]
    return jnp.concatenate(found, -1).reshape((batch, variates, -1))

  def _stack(
    self, name: str, mixers: tuple[Entry, ...]
  ) -> Callable[[jax.Array], jax.Array]:
    """A stack whose width is that of its argument; one set of weights."""
    made: dict[str, Any] = {}

    def read(x: jax.Array) -> jax.Array:
      if not made:
        made["stack"] = Backbone(
          x.shape[-1],
          self.depth,
          mixers,
          mlp="none",
          dtype=self.dtype,
          param_dtype=self.param_dtype,
          name=name,
        )
      return made["stack"](x)[0]

    return read

  def _dense(self, features: int, name: str, scale: float = 1.0) -> nn.Dense:
    dtype = wide(self.dtype)
    return projection(
      self, features, name, scale=scale, use_bias=True, dtype=dtype
    )


KERNEL_WIDTH = 9


def dilations(length: int) -> list[int]:
  """1, 2, 4, ..., as long as a kernel fits in the series; at least 1."""
  most = max(1, (length - 1) // (KERNEL_WIDTH - 1))
  return [2**i for i in range(math.floor(math.log2(most)) + 1)]


def _centred(
  key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
  """Normal kernels minus their means, as ROCKET's."""
  kernel = nn.initializers.normal(shape[0] ** -0.5)(key, shape, dtype)
  return kernel - jnp.mean(kernel, 0, keepdims=True)
