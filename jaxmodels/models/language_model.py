"""The language model: tokens in, logits and a state out."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import TokenEmbedding
from jaxmodels.layers.embedding import check_vocabulary
from jaxmodels.models.backbone import Backbone, State

__all__ = ["LanguageModel"]


class LanguageModel(nn.Module):
  """logits_t = E norm(backbone(E[token_t])): embedding, stack, read-out.

  The state carries everything the past has left: a sequence cut anywhere and
  continued gives the logits of the uncut one, so the same call trains, reads
  a prompt and generates token by token in constant memory. Full attention
  alone has a bound, its `max_length`: it refuses longer sequences and has no
  outputs beyond (see `SoftmaxAttention`). Logits start near
  zero, so predictions start near uniform (see `TokenEmbedding`).

  `jax.export` takes `apply` with a symbolic batch and length, and a decoding
  step with a symbolic batch; the shapes of the state are then
  `jax.eval_shape(lambda: model.init_state(batch))`.

  Attributes:
    vocab_size: The number of tokens, below 2^31.
    width: D.
    depth: Number of layers.
    mixers: Names from `jaxmodels.mixers.MIXERS`, repeated to the depth.
    mixer_options: For each name, fields that differ from its defaults.
    mlp: A name from `jaxmodels.layers.MLPS`.
    mlp_options: Its fields that differ from the defaults.
    tie_embeddings: Whether the way out shares the table of the way in.
    scan_layers: Whether to scan over repeats of `mixers`.
    remat: "none", "dots" or "full", see `Backbone`.
    axis_name: Mesh axis that L is cut over, inside `shard_map`; the state is
      the whole sequence's, on every device.
    dtype: Of the computation.
    param_dtype: Of the parameters.
  """

  vocab_size: int
  width: int
  depth: int
  mixers: tuple[str, ...]
  mixer_options: Mapping[str, Mapping[str, Any]] = nn.FrozenDict()
  mlp: str = "gated_mlp"
  mlp_options: Mapping[str, Any] = nn.FrozenDict()
  tie_embeddings: bool = True
  scan_layers: bool = False
  remat: str = "none"
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Predicts each next token.

    Args:
      tokens: [B, L] integers in [0, vocab_size).
      state: As returned or made by `init_state`; None is its zero.
      segment_ids: [B, L] integers: each run of equal ids is a document, and
        documents do not see one another. Id 0 at the first token continues
        `state`. None joins all.

    Returns:
      logits [B, L, vocab_size] in float32 or wider, and the state.

    Raises:
      ValueError: For an unknown name or option (with near matches), a field
        that does not fit, a sequence longer than the `max_length` of full
        attention, or a mixer that breaks the contract of `jaxmodels.layers`.
    """
    check_vocabulary(self)
    embedding = TokenEmbedding(
      self.vocab_size,
      self.width,
      tied=self.tie_embeddings,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="embedding",
    )
    x = embedding.encode(tokens)
    x, state = self._backbone(name="backbone")(
      x, state, segment_ids=segment_ids
    )
    return embedding.decode(x), state

  def init_state(self, batch_size: int) -> State:
    """The zero state, which is the same as None."""
    return self._backbone(parent=None).init_state(batch_size)

  def _backbone(self, **scope: Any) -> Backbone:
    return Backbone(
      width=self.width,
      depth=self.depth,
      mixers=self.mixers,
      mixer_options=self.mixer_options,
      mlp=self.mlp,
      mlp_options=self.mlp_options,
      scan_layers=self.scan_layers,
      remat=self.remat,
      axis_name=self.axis_name,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      **scope,
    )
