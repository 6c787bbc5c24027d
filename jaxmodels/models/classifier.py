"""The classifier: tokens or vectors in, the logits of a class out."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.layers import TokenEmbedding
from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.layers.embedding import check_vocabulary
from jaxmodels.mixers.registry import pick
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.ops.engine import checks

__all__ = ["Classifier"]

POOLINGS = ("last", "mean", "attention")


class Classifier(Backbone, kw_only=True):
  """logits = W pool_t(stack(embed(x_t))) + b: the class of a sequence.

  The pooling makes one vector p of the outputs y_t of the stack:

  - "last": p = y_t at the last position that counts, for a stack that reads
    from left to right;
  - "mean": p = mean_t y_t;
  - "attention": p = sum_t a_t y_t with a = softmax_t(q y_t / sqrt(D)) and a
    learned query q. It is zero at first, so training starts from the mean. This
    is the word attention of Yang et al. 2016, "Hierarchical Attention Networks
    for Document Classification", without its hidden layer.

  Only positions that the mask marks count. The masked positions at both ends of
  a row are padding: they are segments of their own, so the logits are those of
  the row without them, also if a mixer reads in both directions. A masked
  position between two that count is read, but not pooled.

  It is a `Backbone` between an embedding and a dense map, so its other fields
  are those of `Backbone`. Initial logits are near zero, so initial predictions
  are near uniform.

  Attributes:
    classes: The number of classes.
    vocab_size: The number of tokens, for inputs that are tokens.
    input_width: The number of channels C, for inputs that are vectors.
    pooling: "last", "mean" or "attention".
    segments: The number S of segments per row, for a class per segment; None
      for a class per row.
  """

  classes: int
  vocab_size: int | None = None
  input_width: int | None = None
  pooling: str = "last"
  segments: int | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
    mask: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Classifies sequences.

    Args:
      x: Tokens [B, L], integers in [0, vocab_size); or vectors
        [B, L, input_width].
      state: The state of an earlier call, or of `init_state`; None is the zero
        state. Only the positions of this call are pooled.
      segment_ids: [B, L] integers: each run of equal ids is a segment, and
        segments do not see one another. Id 0 at the first position continues
        `state`. With the field `segments`, the ids are 0 to S - 1, and
        positions with other ids do not count.
      mask: [B, L], nonzero where a position counts; None if all count.

    Returns:
      Logits [B, classes], or [B, S, classes] with the field `segments`, in
      float32 or wider; and the state. Where no position counts, the logits
      are b.

    Raises:
      ValueError: A field or an argument is wrong; the message names it in one
        line.
    """
    x = self._embedded(x)
    shape = x.shape[:2]
    counts, ids = jnp.ones(shape, bool), segment_ids
    if mask is not None:
      checks.shape(type(self).__name__, "mask", mask, shape, "[B, L]")
      counts = mask.astype(bool)
      ids = self._without_padding(counts, segment_ids)
    y, state = super().__call__(x, state, segment_ids=ids)
    return class_head(self, self._pooled(y, counts, segment_ids)), state

  def _embedded(self, inputs: jax.Array) -> jax.Array:
    """Tokens or vectors as [B, L, D]; also checks the fields."""
    name = type(self).__name__
    check_fields(self, "classes", "vocab_size", "input_width", "segments")
    pick("pooling", self.pooling, dict.fromkeys(POOLINGS))
    checks.require(
      (self.vocab_size is None) != (self.input_width is None),
      f"{name}: give vocab_size for tokens or input_width for vectors, one of "
      f"the two, got vocab_size {self.vocab_size} and input_width "
      f"{self.input_width}",
    )
    if self.vocab_size is not None:
      check_vocabulary(self)
      return TokenEmbedding(
        self.vocab_size,
        self.width,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name="embedding",
      )(inputs)
    shape = (None, None, self.input_width)
    checks.shape(name, "x", inputs, shape, "[B, L, input_width]")
    checks.dtype(name, "x", inputs, jnp.floating, "real floating point")
    # Rounding the inputs to bfloat16 would lose what they measure.
    dtype = wide(self.dtype)
    dense = projection(
      self, self.width, "embedding", use_bias=True, dtype=dtype
    )
    return dense(inputs.astype(dtype))

  def _places(self, length: int) -> jax.Array:
    """The positions [L] in the whole sequence."""
    places = jnp.arange(length)
    if self.axis_name is None:
      return places
    return lax.axis_index(self.axis_name) * length + places

  def _most(self, x: jax.Array) -> jax.Array:
    """The largest values over L, the last axis, as [..., 1]."""
    most = jnp.max(x, axis=-1, keepdims=True)
    return most if self.axis_name is None else lax.pmax(most, self.axis_name)

  def _total(self, x: jax.Array) -> jax.Array:
    """The sum over all devices that have a piece of the sequence."""
    return x if self.axis_name is None else lax.psum(x, self.axis_name)

  def _without_padding(
    self, counts: jax.Array, segment_ids: jax.Array | None
  ) -> jax.Array:
    """Segment ids that make segments of the padding at both ends."""
    places = self._places(counts.shape[1])[None]
    largest = jnp.iinfo(places.dtype).max
    first = -self._most(jnp.where(counts, -places, -largest))
    last = self._most(jnp.where(counts, places, -1))
    # 0 or 1 for the positions between, and 0 or 2 for the others. 0 stays the
    # id of the first position, so that the state of an earlier call continues.
    part = jnp.where(first > 0, (places >= first).astype(places.dtype), 0)
    part = jnp.where(places > last, 2, part)
    if segment_ids is None:
      return part
    return 3 * segment_ids + part.astype(segment_ids.dtype)

  def _pooled(
    self, y: jax.Array, counts: jax.Array, segment_ids: jax.Array | None
  ) -> jax.Array:
    """One vector [B, D] per row of y [B, L, D], or [B, S, D] per segment."""
    y = y.astype(wide(self.dtype))
    belongs = counts[:, None]
    if self.segments is not None:
      if segment_ids is None:
        segment_ids = jnp.zeros(y.shape[:2], jnp.int32)
      numbers = jnp.arange(self.segments, dtype=segment_ids.dtype)
      belongs = belongs & (segment_ids[:, None] == numbers[None, :, None])
    share = self._shares(y, belongs)
    # A masked output times 0 would be NaN if the output is infinite.
    y = jnp.where(counts[..., None], y, 0)
    pooled = self._total(jnp.einsum("bsl,bld->bsd", share, y))
    weight = self._total(jnp.sum(share, axis=-1, keepdims=True))
    pooled = pooled / jnp.where(weight == 0, 1, weight)
    return pooled if self.segments is not None else pooled[:, 0]

  def _shares(self, y: jax.Array, belongs: jax.Array) -> jax.Array:
    """How much each position counts, [B, S, L], up to a factor."""
    if self.pooling == "last":
      places = self._places(y.shape[1])[None, None]
      last = self._most(jnp.where(belongs, places, -1))
      return (belongs & (places == last)).astype(y.dtype)
    if self.pooling == "mean":
      return belongs.astype(y.dtype)
    zeros = nn.initializers.zeros
    query = self.param("query", zeros, (self.width,), self.param_dtype)
    scores = jnp.einsum("bld,d->bl", y, query.astype(y.dtype))
    scores = scores[:, None] / math.sqrt(self.width)
    scores = jnp.where(belongs, scores, -jnp.inf)
    most = self._most(lax.stop_gradient(scores))
    # A segment without a position has no largest score.
    return jnp.exp(scores - jnp.where(jnp.isfinite(most), most, 0))


def class_head(model: Any, x: jax.Array) -> jax.Array:
  """Logits [..., classes], near zero at first, in float32 or wider."""
  head = projection(
    model,
    model.classes,
    "head",
    use_bias=True,
    dtype=wide(model.dtype),
    kernel_init=nn.initializers.normal(0.02),
  )
  return head(x)
