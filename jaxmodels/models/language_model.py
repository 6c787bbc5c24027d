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
    mixers: Modules, names of `jaxmodels.mixers.MIXERS`, or names with options,
      repeated to the depth; see `Backbone`.
    mixer_options: For each name, fields that differ from its defaults.
    mlp: A module, a name of `jaxmodels.layers.MLPS`, or a name with options;
      or a tuple of them, repeated to the depth.
    mlp_options: Fields of those channel mixers that are names.
    tie_embeddings: Whether the way out shares the table of the way in.
    scan_layers: Whether to scan over repeats of the pattern of layers.
    remat: "none", "dots" or "full", see `Backbone`.
    axis_name: Mesh axis that L is cut over, inside `shard_map`; the state is
      the whole sequence's, on every device.
    dtype: Of the computation.
    param_dtype: Of the parameters.
    layout: "pre_norm", "post_norm" or "parallel", see `Backbone`.
    norm: "rms" or "layer": the norms of the stack.
    norm_epsilon: What is added inside the root of these norms.
    input_norm: Whether to norm the embeddings, as RWKV does.
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
  layout: str = "pre_norm"
  norm: str = "rms"
  norm_epsilon: float = 1e-6
  input_norm: bool = False

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
        attention, or a mixer that breaks the contract of
        `jaxmodels.mixers.contract`.
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
    own = {field.name for field in dataclasses.fields(Backbone) if field.init}
    fields = {name: getattr(self, name) for name in own - {"parent", "name"}}
    return Backbone(**fields, **scope)
