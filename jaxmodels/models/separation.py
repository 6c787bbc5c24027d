"""Separation of mixed sources: masks on the features of a learned encoder."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.layers.short_convolution import ShortConvolution
from jaxmodels.mixers import contract
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.registry import pick
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.models.block import make_norm
from jaxmodels.ops.engine import checks

__all__ = ["GatedAttention", "Separator"]

MASKS = ("relu", "softmax")


class GatedAttention(Mixer):
  """MossFormer's gated single-head attention, or any mixer in its place.

  With conv(h) = h + short convolutions of h from both sides,

    v_t, u_t = conv(SiLU(W_v x)_t), conv(SiLU(W_u x)_t)          [E D]
    [v'_t, u'_t] = A [v_t, u_t]
    y_t = W_o (u'_t * v_t * sigmoid(v'_t * u_t))

  A is joint attention within groups of G tokens and over all L tokens: with
  z_t = conv(SiLU(W_z x)_t), and q, k, q~, k~ each a scale and an offset of z,

    (A v)_t = sum_s relu(q_t . k_s / G)^2 v_s   over the group of t
            + sum_s (q~_t . k~_s) v_s / L       over all tokens

  (Zhao & Ma 2023, "MossFormer", arXiv:2302.11824; the attention is that of Hua
  et al. 2022, arXiv:2202.10447). Or A is `mixer`, with 2 E D channels.
  Departures: no rotary positions and no token shift; W_o is a dense map without
  a convolution; scales start as normal numbers with a deviation of 1; a shorter
  last group counts as G tokens too.

  The other fields are those of `Mixer`; `reverse` has no effect. There is no
  state. Packed and sharded sequences need a `mixer`, because groups of the
  joint attention begin at the start of a row.

  Attributes:
    mixer: A module that is not bound; its width, dtypes and axis_name are set
      here. None for the joint attention.
    expand: E.
    group_size: G.
    key_width: The channels of z.
    kernel_width: The tokens that a convolution reads on each side, its own
      included.
  """

  mixer: nn.Module | None = None
  expand: int = 1
  group_size: int = 64
  key_width: int = 32
  kernel_width: int = 8

  def mix(
    self,
    x: jax.Array,
    state: None,
    segment_ids: jax.Array | None,
    *,
    layer: Any = 0,
    depth: int = 1,
    shared: Any = None,
  ) -> tuple[Any, ...]:
    """The equation above."""
    del state
    check_fields(self, "expand", "group_size", "key_width", "kernel_width")
    both = self._convolved("hidden", self._channels, x, segment_ids)
    extras = {"layer": layer, "depth": depth}
    if shared is not None:
      extras["shared"] = shared
    values = shared
    if self.mixer is None:
      z = self._convolved("key", self.key_width, x, segment_ids)
      read = self._joint(both, z, segment_ids)
    else:
      inner = self._inner().copy(parent=self, name="attention")
      read, _, values = contract.mix_in_stack(
        inner, both, None, segment_ids, extras
      )
    (v, u), (w, r) = (jnp.split(a, 2, -1) for a in (both, read))
    y = self.project_out(r * v * nn.sigmoid(w * u))
    return (y, ()) if shared is None else (y, (), values)

  @nn.nowrap
  def init_state(self, batch_size: int) -> tuple[()]:
    """(), the state of a mixer that reads all tokens."""
    del batch_size
    return ()

  @nn.nowrap
  def init_shared(
    self, x: jax.Array, depth: int, param: Callable[..., jax.Array]
  ) -> Mapping[str, jax.Array]:
    """The shared values of the mixer inside, if it has any."""
    inner: Any = None if self.mixer is None else self._inner()
    if not hasattr(inner, "init_shared"):
      return {}
    wide_x = jnp.zeros((*x.shape[:2], self._channels), x.dtype)
    return inner.init_shared(wide_x, depth, param)

  @property
  def _channels(self) -> int:
    """2 E D."""
    return 2 * self.expand * self.width

  @nn.nowrap
  def _convolved(
    self,
    name: str,
    features: int,
    x: jax.Array,
    segment_ids: jax.Array | None,
  ) -> jax.Array:
    """conv(SiLU(W x)) of the equation above."""
    h = nn.silu(self.dense(name, features)(x))
    y = h
    for side, reverse in (("ahead", False), ("back", True)):
      convolution = ShortConvolution(
        self.kernel_width,
        activation=lambda a: a,
        reverse=reverse,
        axis_name=self.axis_name,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=f"{name}_{side}",
      )
      y = y + convolution(h, segment_ids=segment_ids)[0]
    return y

  @nn.nowrap
  def _joint(
    self, v: jax.Array, z: jax.Array, segment_ids: jax.Array | None
  ) -> jax.Array:
    """The joint attention of v [B, L, E] with keys from z [B, L, K]."""
    checks.require(
      segment_ids is None and self.axis_name is None,
      "GatedAttention: without a mixer it takes no packed and no sharded "
      "sequences: give it a mixer, such as Bidirectional",
    )
    shape = (4, z.shape[-1])
    normal, zeros = nn.initializers.normal(1.0), nn.initializers.zeros
    scale = self.param("scale", normal, shape, self.param_dtype)
    offset = self.param("offset", zeros, shape, self.param_dtype)
    q, k, far_q, far_k = (
      z * a[None, None] + b[None, None]
      for a, b in zip(
        *(p.astype(z.dtype) for p in (scale, offset)), strict=True
      )
    )
    length, size = z.shape[1], self.group_size

    def grouped(a: jax.Array) -> jax.Array:
      a = jnp.pad(a, ((0, 0), (0, -length % size), (0, 0)))
      return a.reshape((a.shape[0], -1, size, a.shape[-1]))

    # The padding has values of 0, so it adds nothing.
    scores = jnp.einsum("bgik,bgjk->bgij", grouped(q), grouped(k)) / size
    near = jnp.einsum("bgij,bgje->bgie", nn.relu(scores) ** 2, grouped(v))
    near = near.reshape((v.shape[0], -1, v.shape[-1]))[:, :length]
    far = jnp.einsum("blk,ble->bke", far_k, v / length)
    return near + jnp.einsum("blk,bke->ble", far_q, far)

  @nn.nowrap
  def _inner(self) -> nn.Module:
    """The mixer inside with the fields of this one, bound to no scope."""
    mixer: Any = self.mixer
    own = self.given_to(mixer, ("axis_name", "dtype", "param_dtype"))
    return mixer.copy(parent=None, name=None, width=self._channels, **own)


class Separator(Backbone, kw_only=True):
  """The sources in a mixture, by masks on the features of an encoder.

    f_l = ReLU(sum_k E_k x_{l s + k})                  an encoder with stride s
    m_l = mask(W norm(stack(V norm(f_l))) + b)         one per source
    y_i = sum_l D_{t - l s} (m_li * f_l) at t          overlap-add, per source

  The masks are ReLUs, or softmaxes over the sources, which add up to 1, so that
  the estimates add up to what the decoder makes of f. The mixture is padded at
  both ends, so that the estimates have its length, and all samples are in
  `kernel_width / stride` frames.

  It is a `Backbone` between encoder and masks, so its other fields are those of
  `Backbone`. With `GatedAttention` and `Bidirectional` `FSMN` memories in turn
  and no channel mixers, it is a MossFormer2 (Zhao et al. 2023,
  arXiv:2312.11825). Departures: RMSNorm; no sinusoidal positions; masks without
  their gated hidden layer; a memory block without a bottleneck and
  convolutions, whose look-ahead is a second memory that runs backwards.

  Attributes:
    sources: The number of sources.
    filters: The number of channels of f.
    kernel_width: The number of samples of a filter, a multiple of `stride`.
    stride: s.
    mask: "relu" or "softmax".
  """

  sources: int = 2
  filters: int = 64
  kernel_width: int = 32
  stride: int = 16
  mask: str = "relu"

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Separates mixtures.

    Args:
      x: Mixtures [B, T], real floating point, of any length T.
      state: None: a mixture is separated as a whole.
      segment_ids: None: one mixture per row.

    Returns:
      Estimates [B, sources, T] in float32 or wider, and ().

    Raises:
      ValueError: A field or an argument is wrong; the message names it in one
        line.
    """
    self._check_call(x, state, segment_ids)
    dtype, length = wide(self.dtype), x.shape[1]
    blocks = self.kernel_width // self.stride
    frames = _frames(x.astype(dtype), self.stride, blocks)
    features = nn.relu(
      projection(self, self.filters, "encoder", dtype=dtype)(frames)
    )
    normed = make_norm(self, "feature_norm")(features)
    inputs = projection(self, self.width, "input", use_bias=True)(normed)
    y, _ = super().__call__(inputs)
    logits = projection(
      self, self.sources * self.filters, "masks", use_bias=True, dtype=dtype
    )(y)
    logits = logits.reshape((*y.shape[:2], self.sources, self.filters))
    masks = nn.relu(logits) if self.mask == "relu" else nn.softmax(logits, 2)
    masked = jnp.moveaxis(masks * features[:, :, None], 2, 1)
    decoder = projection(self, self.kernel_width, "decoder", dtype=dtype)
    return _overlap_add(decoder(masked), self.stride, blocks, length), ()

  def _check_call(
    self, x: jax.Array, state: State, segment_ids: jax.Array | None
  ) -> None:
    name = type(self).__name__
    check_fields(self, "sources", "filters", "kernel_width", "stride")
    pick("mask", self.mask, dict.fromkeys(MASKS))
    checks.require(
      self.kernel_width % self.stride == 0,
      f"{name}: kernel_width must be a multiple of stride = {self.stride}, got "
      f"{self.kernel_width}",
    )
    checks.require(
      state is None and segment_ids is None and self.axis_name is None,
      f"{name}: a mixture is separated as a whole: give no state, no "
      "segment_ids and no axis_name",
    )
    checks.shape(name, "x", x, (None, None), "[B, T]")
    checks.dtype(name, "x", x, jnp.floating, "real floating point")


def _frames(x: jax.Array, stride: int, blocks: int) -> jax.Array:
  """Overlapping frames [B, L, blocks * stride] of x [B, T]."""
  batch, length = x.shape
  edge = (blocks - 1) * stride
  x = jnp.pad(x, ((0, 0), (edge, edge + -length % stride)))
  x = x.reshape((batch, -1, stride))
  count = x.shape[1] - blocks + 1
  return jnp.concatenate([x[:, i : i + count] for i in range(blocks)], -1)


def _overlap_add(
  frames: jax.Array, stride: int, blocks: int, length: int
) -> jax.Array:
  """The sum [B, S, T] of frames [B, S, L, blocks * stride] at their places."""
  parts = jnp.split(frames, blocks, -1)
  total: Any = 0
  for i, part in enumerate(parts):
    widths = ((0, 0), (0, 0), (i, blocks - 1 - i), (0, 0))
    total = total + jnp.pad(part, widths)
  edge = (blocks - 1) * stride
  flat = total.reshape((*total.shape[:2], -1))
  return flat[:, :, edge : edge + length]
