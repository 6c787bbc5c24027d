"""The language model: tokens in, logits and a state out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers import TokenEmbedding
from jaxmodels.layers.embedding import check_vocabulary
from jaxmodels.mixers.registry import Entry
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.models.block import Block

__all__ = ["LanguageModel"]


class LanguageModel(nn.Module):
  """logits_t = E norm(backbone(E[token_t])): embedding, stack, logits.

  A sequence that is cut anywhere, and continued from the returned state, gives
  the logits of the uncut sequence. So the same call trains, reads a prompt, and
  generates token by token in constant memory. Only full attention has a bound,
  its `max_length`: it refuses longer sequences, and has no outputs beyond it
  (see `SoftmaxAttention`). Initial logits are near zero, so initial predictions
  are near uniform (see `TokenEmbedding`).

  `jax.export` takes `apply` with a symbolic batch and length, and a decoding
  step with a symbolic batch. The shapes of the state are then
  `jax.eval_shape(lambda: model.init_state(batch))`.

  Attributes:
    vocab_size: The number of tokens, below 2^31.
    width: D.
    depth: The number of layers.
    mixers: Modules, names of `jaxmodels.mixers.MIXERS`, or names with options,
      repeated to the depth; see `Backbone`.
    mixer_options: For each name, fields that differ from its defaults.
    mlp: A module, a name of `jaxmodels.layers.MLPS`, or a name with options;
      or a tuple of them, repeated to the depth.
    mlp_options: Fields of the channel mixers that are given by name.
    tie_embeddings: Whether embeddings and logits share one table.
    scan_layers: Whether to scan over repeats of the pattern of layers.
    remat: "none", "dots" or "full", see `Backbone`.
    axis_name: The mesh axis over which L is sharded, inside `shard_map`; the
      state is that of the whole sequence, on every device.
    dtype: The dtype of the computation.
    param_dtype: The dtype of the parameters.
    layout: "pre_norm" or another layout of `Backbone`, or a tuple of them.
    norm: "rms" or another norm of `Backbone`: the norms of the stack.
    norm_epsilon: Added inside the root of these norms.
    norm_offset: Added to the scales of these norms.
    skip_scale: Factor on the stream at each write, see `Backbone`.
    residual_scale: Factor on what mixers and channel mixers write.
    input_norm: Whether to normalise the embeddings, as RWKV does.
    final_norm: The norm at the end of the stack, by default `norm`.
    final_norm_epsilon: Its epsilon, by default `norm_epsilon`.
    embedding_scale: Factor on the embeddings, sqrt(D) in Gemma.
    logits_scale: Factor on the logits.
    logits_cap: c of c tanh(logits / c), which bounds the logits (after the
      factor); None for no bound.
  """

  vocab_size: int
  width: int
  depth: int
  mixers: tuple[Entry, ...]
  mixer_options: Mapping[str, Mapping[str, Any]] = nn.FrozenDict()
  mlp: Entry | tuple[Entry, ...] = "gated_mlp"
  mlp_options: Mapping[str, Any] = nn.FrozenDict()
  tie_embeddings: bool = True
  scan_layers: bool = False
  remat: str = "none"
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  layout: str | tuple[str, ...] = "pre_norm"
  norm: str = "rms"
  norm_epsilon: float = 1e-6
  norm_offset: float = 0.0
  skip_scale: float | tuple[tuple[float, float], ...] = 1.0
  residual_scale: float | tuple[tuple[float, float], ...] = 1.0
  input_norm: bool = False
  final_norm: str | None = None
  final_norm_epsilon: float | None = None
  embedding_scale: float = 1.0
  logits_scale: float = 1.0
  logits_cap: float | None = None

  def setup(self) -> None:
    """Makes the embedding, which also gives the logits, and the stack."""
    check_vocabulary(self)
    self.embedding = TokenEmbedding(
      self.vocab_size,
      self.width,
      tied=self.tie_embeddings,
      embedding_scale=self.embedding_scale,
      logits_scale=self.logits_scale,
      logits_cap=self.logits_cap,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    self.backbone = self._backbone()

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
      state: The state of an earlier call, or of `init_state`; None is the zero
        state.
      segment_ids: [B, L] integers: each run of equal ids is a document, and
        documents do not see one another. Id 0 at the first token continues
        `state`. None is one document, which continues `state`.

    Returns:
      logits [B, L, vocab_size] in float32 or wider, and the state.

    Raises:
      ValueError: A name or option is unknown (the message has near matches), a
        field has a wrong value, a sequence is longer than the `max_length` of
        full attention, or a mixer breaks the contract of
        `jaxmodels.mixers.contract`.
    """
    x, state = self.features(tokens, state, segment_ids=segment_ids)
    return self.logits(x), state

  def features(
    self,
    tokens: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
  ) -> tuple[jax.Array, State]:
    """Returns the output of the stack, [B, L, D], and the state.

    A loss over a large vocabulary computes `logits` of it in chunks of L, so
    that the logits of whole sequences are never in memory.
    """
    x = self.embedding.encode(tokens)
    return self.backbone(x, state, segment_ids=segment_ids)

  def logits(self, x: jax.Array) -> jax.Array:
    """Returns the logits [..., vocab_size] of features [..., D]."""
    return self.embedding.decode(x)

  def init_state(self, batch_size: int) -> State:
    """The zero state, which stands for the same state as None."""
    return self._backbone(parent=None).init_state(batch_size)

  def blocks(self) -> tuple[Block, ...]:
    """The layers of the stack, not bound to a scope, with all their fields."""
    blocks = self._backbone(parent=None).pattern()
    return tuple(blocks[i % len(blocks)] for i in range(self.depth))

  def _backbone(self, **scope: Any) -> Backbone:
    own = {field.name for field in dataclasses.fields(Backbone) if field.init}
    fields = {name: getattr(self, name) for name in own - {"parent", "name"}}
    return Backbone(**fields, **scope)
