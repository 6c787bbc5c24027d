"""Softmax attention, full or in a window, the partner of linear mixers."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  merge_heads,
  split_heads,
)
from jaxmodels.layers.rotary import Ramp, rotate
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import Cache, attention
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["SlidingAttention", "SoftmaxAttention", "SoftmaxAttentionState"]

MAX_LENGTH = 2048
QK_NORMS = (False, True, "head", "whole")
GATES = (None, "sigmoid")
_REMEDY = (
  "raise max_length (the cache grows with it), or set window to see only the "
  "latest tokens"
)


@serializable
class SoftmaxAttentionState(NamedTuple):
  """The cache of keys and values, and how many tokens came before, [B]."""

  cache: Cache
  position: jax.Array


class SoftmaxAttention(Mixer):
  """Causal attention with rotary positions and grouped heads.

    q_t, k_t = rotate(W_q x_t, t) / sqrt(K), rotate(W_k x_t, t)
    y_t = W_o concat_heads(sum_s softmax_s(q_t . k_s) W_v x_s)

  over the window - 1 tokens before t in its segment, and t. Vaswani et al.
  2017, arXiv:1706.03762; rotary positions: Su et al. 2021, arXiv:2104.09864,
  counted from the start of each segment; grouped heads: Ainslie et al. 2023,
  arXiv:2305.13245; RMSNorm of q and k per head: Henry et al. 2020,
  arXiv:2010.04245, in the form that most models use now (a learned scale
  per channel). Options: a soft cap of the scores and attention sinks, see
  `jaxmodels.ops.attention`; a part of the channels rotated, and rotations for
  longer sequences than those of the training, see `jaxmodels.layers.rotate`; a
  gate, with which the heads are multiplied by sigmoid(W_g x_t) before W_o
  (Qiu et al. 2025, arXiv:2505.06708; Qwen3-Next).

  Full attention (`window` None) has the bound `max_length`, so that its cache
  has a fixed size and decoding is one program. It never becomes a window: a
  token with `max_length` others or more before it in its segment has no
  output, since the cache has lost some of them.
    - A call with more than `max_length` tokens is a `ValueError`, in training
      too, and whatever the segments. `window` is the way to train on rows
      longer than what a token may see.
    - Decoding from a state beyond `max_length` is a `ValueError` where the
      position is known outside of `jit`, and under `checks.numerics`. A
      compiled program cannot raise; there the outputs of such tokens are NaN.

  The other fields are those of `Mixer`. In reverse a query sees the tokens
  after it, and positions count from the end of each segment.

  Attributes:
    heads: H, the query heads.
    kv_heads: Key and value heads, a divisor of H; H by default.
    head_width: K, by default D / H; even.
    window: Tokens a query sees, itself among them; None for all of them.
    max_length: The most tokens of a segment, for full attention; the cache
      has room for so many. It must not be set beside `window`.
    qk_norm: The RMSNorm of queries and keys before they are rotated: False for
      none, "head" for each head on its own with one scale [K] (True is the
      same), "whole" over all heads at once with a scale [H K] (OLMo 2, Walsh et
      al. 2024, arXiv:2501.00656).
    rotary_base: The base of the wavelengths, see `rotate`.
    rotary_fraction: The fraction of the channels that is rotated; 0 for no
      positions.
    rotary_factor: Divides the speeds of the rotation.
    rotary_length: The length of the training sequences, for `rotary_factor`.
    rotary_turns: Between which numbers of turns in `rotary_length` the speeds
      go from divided to kept.
    scale: The factor on the scores, by default 1 / sqrt(K).
    softcap: The bound of the scores, or None.
    sinks: Whether each head has a learned sink, initially 0.
    qk_norm_offset: The `offset` of the norms of `qk_norm`, see `RMSNorm`;
      Qwen3-Next has 1.
    gate: "sigmoid" for the gate of the heads, None for no gate.
    qkv_bias: Whether the projections to queries, keys, values and the gate have
      a bias.
    output_bias: Whether the output projection has a bias.
    rotary_ramp: How the speeds go from divided to kept, see `rotate`.
    rotary_gain: Factor on the rotated channels of queries and of keys.
  """

  heads: int = 4
  kv_heads: int | None = None
  head_width: int | None = None
  window: int | None = None
  max_length: int = MAX_LENGTH
  qk_norm: bool | str = False
  rotary_base: float = 10_000.0
  rotary_fraction: float = 1.0
  rotary_factor: float = 1.0
  rotary_length: int | None = None
  rotary_turns: tuple[float, float] = (1.0, 32.0)
  scale: float | None = None
  softcap: float | None = None
  sinks: bool = False
  qk_norm_offset: float = 0.0
  gate: str | None = None
  qkv_bias: bool = False
  output_bias: bool = False
  rotary_ramp: Ramp = "turns"
  rotary_gain: float = 1.0

  def mix(
    self,
    x: jax.Array,
    state: SoftmaxAttentionState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, SoftmaxAttentionState]:
    """The equation above."""
    kv_heads, head_width = self._sizes()
    if self.window is None:
      check_length(self, x.shape[1], _REMEDY)
    positions, after = self.positions(
      x, None if state is None else state.position, segment_ids
    )
    scale = head_width**-0.5 if self.scale is None else self.scale
    q, k = (
      self._rotated(self._normed(name, x, heads, head_width), positions)
      for name, heads in (("query", self.heads), ("key", kv_heads))
    )
    self._observe(q, k, scale, segment_ids)
    y, cache = self.run(
      functools.partial(attention, softcap=self.softcap, sinks=self._sinks()),
      q * scale,
      k,
      self.heads_of("value", x, kv_heads, head_width, use_bias=self.qkv_bias),
      self._context(),
      state=None if state is None else state.cache,
      segment_ids=segment_ids,
    )
    y = self._gated(x, merge_heads(self._weighted(x, y)))
    y = self.project_out(y, use_bias=self.output_bias)
    goes_on = state is not None or is_open(x.shape[1])
    if goes_on and self.window is None:
      y = within_cache(self, y, positions, _REMEDY)
    return y, SoftmaxAttentionState(cache, after)

  @nn.nowrap
  def _normed(
    self, name: str, x: jax.Array, heads: int, head_width: int
  ) -> jax.Array:
    """Queries or keys [B, L, H, K] before the rotation."""
    y = self.dense(name, heads * head_width, use_bias=self.qkv_bias)(x)
    if not self.qk_norm:
      return split_heads(y, heads)
    norm = self.new_norm(f"{name}_norm", offset=self.qk_norm_offset)
    if self.qk_norm == "whole":
      return split_heads(norm(y), heads)
    return norm(split_heads(y, heads))

  @nn.nowrap
  def _rotated(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Queries or keys [B, L, H, K] rotated by their positions [B, L]."""
    return rotate(
      x,
      positions,
      self.rotary_base,
      fraction=self.rotary_fraction,
      factor=self.rotary_factor,
      original_length=self.rotary_length,
      turns=self.rotary_turns,
      ramp=self.rotary_ramp,
      gain=self.rotary_gain,
    )

  @nn.nowrap
  def _gated(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """The merged heads y [B, L, H K], times the gate if there is one."""
    if self.gate is None:
      return y
    logits = self.dense("output_gate", y.shape[-1], use_bias=self.qkv_bias)(x)
    return y * nn.sigmoid(logits)

  @nn.nowrap
  def _observe(
    self,
    q: jax.Array,
    k: jax.Array,
    scale: float,
    segment_ids: jax.Array | None,
  ) -> None:
    """Sees q and k before the scores, for subclasses that sow a loss."""

  @nn.nowrap
  def _weighted(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """The heads y [B, L, H, K] before the output projection, for subclasses."""
    del x
    return y

  @nn.nowrap
  def _sinks(self) -> jax.Array | None:
    """The learned scores of the sinks, [H]."""
    if not self.sinks:
      return None
    return self.param(
      "sinks", nn.initializers.zeros, (self.heads,), self.param_dtype
    )

  def _context(self) -> int:
    """Tokens that a query sees at most, itself among them."""
    return self.window or self.max_length

  def _sizes(self) -> tuple[int, int]:
    """Key heads and K, once all fields are checked."""
    sizes = ("heads", "kv_heads", "head_width", "window", "max_length")
    check_fields(self, *sizes)
    check_positive(self, "rotary_base", "rotary_factor", "rotary_gain")
    name = type(self).__name__
    for field, known in (("qk_norm", QK_NORMS), ("gate", GATES)):
      value = getattr(self, field)
      checks.require(
        value in known,
        f"{name}: {field} must be one of {', '.join(map(repr, known))}, got "
        f"{value!r}",
      )
    checks.require(
      self.window is None or self.max_length == MAX_LENGTH,
      f"{name}: max_length is for full attention, but window is "
      f"{self.window}: set one of them",
    )
    if self.kv_heads is not None:
      divide(self, "kv_heads", self.heads, "heads")
    head_width = self.head_width or divide(self, "heads", self.width, "D")
    rotated = round(self.rotary_fraction * head_width)
    checks.require(
      rotated % 2 == 0 and 0 <= rotated <= head_width,
      f"{name}: head_width, D / heads by default, must make K even, "
      f"got {head_width}, of which rotary_fraction rotates {rotated}",
    )
    return self.kv_heads or self.heads, head_width


class SlidingAttention(SoftmaxAttention):
  """Softmax attention in a window: a query sees the last `window` tokens.

  Beltagy et al. 2020, arXiv:2004.05150; the equation is that of
  `SoftmaxAttention`.

  Attributes:
    window: Tokens a query sees, itself among them.
  """

  window: int | None = 256


def check_length(layer: Any, length: Any, remedy: str) -> None:
  """Raises where a call has more tokens than `max_length` of a mixer.

  Args:
    layer: A mixer with full attention and a field `max_length`.
    length: The tokens of the call on this device.
    remedy: What to do, for the message.
  """
  if layer.axis_name is not None:
    length *= jax.lax.axis_size(layer.axis_name)
  checks.require(
    # Of an exported program only a call knows its length: y is NaN beyond.
    is_open(length) or length <= layer.max_length,
    f"{type(layer).__name__}: max_length is {layer.max_length}, but the "
    f"sequence has {length} tokens: {remedy}",
  )


def within_cache(
  layer: Any, y: jax.Array, positions: jax.Array, remedy: str
) -> jax.Array:
  """Raises where tokens are beyond the cache, or makes their outputs NaN.

  Args:
    layer: A mixer with full attention and a field `max_length`.
    y: [B, L, D], the outputs.
    positions: [B, L], how many tokens of its segment precede each token.
    remedy: What to do, for the message.
  """
  name = type(layer).__name__
  if not isinstance(positions, jax.core.Tracer):
    last = int(np.max(positions, initial=0))
    checks.require(
      last < layer.max_length,
      f"{name}: max_length is {layer.max_length}, but a token has "
      f"{last} others before it: {remedy}",
    )
  bounded = f"the position (max_length is {layer.max_length}; raise it)"
  checks.between(name, bounded, positions, 0, layer.max_length - 1)
  beyond = (positions >= layer.max_length)[..., None]
  return jnp.where(beyond, jnp.asarray(jnp.nan, y.dtype), y)
