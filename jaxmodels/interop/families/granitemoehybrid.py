"""Granite 4: `GraniteMoeHybridForCausalLM` of transformers.

A layer is Mamba-2 or softmax attention, by default without positions, and a
gated MLP, beside which the larger models have experts. Factors of the maximal
update parametrisation stay fields of the model.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmodels.interop import mamba_keys as keys
from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families.mamba2 import mixer_rules
from jaxmodels.interop.family import Family, mixer_of, mlp_of
from jaxmodels.layers import GatedMLP, SparseMoE
from jaxmodels.mixers import Mamba2, SoftmaxAttention
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  depth = config.get("num_hidden_layers", 32)
  epsilon = config.get("rms_norm_eps", 1e-6)
  config.expect("normalization_function", "rmsnorm")
  config.ignore("init_method", *keys.INITIAL)
  mamba = Mamba2(width, **keys.read_mamba(config, width, epsilon))
  attention = keys.read_attention(
    config,
    width,
    max_length=2048,
    kv_heads=None,
    rotary=config.get("position_embedding_type") == "rope",
    scale=config.get("attention_multiplier", 1.0),
  )
  if attention.rotary_fraction not in (0, 1):
    raise FolderError(f"{config.where}: partial_rotary_factor must be 1")
  kinds = config.first(("layer_types", "layers_block_type"), None)
  kinds = keys.layer_kinds(config, kinds, depth)
  mixers = {"mamba": mamba, "attention": attention}
  return LanguageModel(
    vocab_size=config.get("vocab_size", 32000),
    width=width,
    depth=depth,
    mixers=parts.shortest([mixers[kind] for kind in kinds]),
    mlp=_mlp(config, width),
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=epsilon,
    residual_scale=config.get("residual_multiplier", 1.0),
    embedding_scale=config.get("embedding_multiplier", 1.0),
    logits_scale=_inverse(config.get("logits_scaling", 1.0)),
  )


def _inverse(x: float) -> float:
  return 1 / x


def _mlp(config: Config, width: int) -> GatedMLP | SparseMoE:
  """A gated MLP, or experts with this MLP as the shared expert."""
  activation = read_activation(config, "hidden_act", "silu")
  shared = config.get("shared_intermediate_size", 1024)
  experts = config.get("num_local_experts", 8)
  hidden = config.get("intermediate_size", 11008)
  top_k = config.get("num_experts_per_tok", 2)
  if not experts:
    return GatedMLP(width, hidden=shared, activation=activation)
  return SparseMoE(
    width,
    hidden=hidden,
    experts=experts,
    top_k=top_k,
    shared_hidden=shared,
    activation=activation,
    balance_loss=config.get("router_aux_loss_coef", 0.001),
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  if isinstance(model.residual_scale, tuple | list):
    raise FolderError(f"its residual_scale is {model.residual_scale}")
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  softmax = [isinstance(mixer, SoftmaxAttention) for mixer in mixers]
  first = mixers[softmax.index(True)] if any(softmax) else None
  own: dict[str, Any] = {}
  if first is not None:
    size = first.head_width or model.width // first.heads
    own["attention_multiplier"] = first.scale or size**-0.5
    own["position_embedding_type"] = "rope" if first.rotary_fraction else None
  return {
    **keys.write_mixers(mixers),
    **_write_mlp(model),
    **own,
    "embedding_multiplier": model.embedding_scale,
    "hidden_size": model.width,
    "layer_types": [
      "full_attention" if is_softmax else "linear_attention"
      for is_softmax in softmax
    ],
    "logits_scaling": keys.solution(
      _inverse, model.logits_scale, 1 / model.logits_scale
    ),
    "num_hidden_layers": model.depth,
    "residual_multiplier": model.residual_scale,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }


def _write_mlp(model: LanguageModel) -> dict[str, Any]:
  mlp = mlp_of(model, 0)
  if isinstance(mlp, SparseMoE):
    values = {
      "intermediate_size": mlp.hidden,
      "num_experts_per_tok": mlp.top_k,
      "num_local_experts": mlp.experts,
      "router_aux_loss_coef": mlp.balance_loss,
      "shared_intermediate_size": mlp.shared_hidden,
    }
  else:
    mlp = keys.gated_mlp_of(model)
    values = {"num_local_experts": 0, "num_experts_per_tok": 0}
    values["shared_intermediate_size"] = mlp.gated_width()
  return {**values, "hidden_act": written_activation(mlp.activation)}


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from parts.outside(model)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer = mixer_of(model, i)
    for their, our in (("input", "mixer"), ("post_attention", "mlp")):
      yield r.same(
        f"{theirs}.{their}_layernorm.weight", f"{ours}/{our}_norm/scale"
      )
    if isinstance(mixer, Mamba2):
      yield from mixer_rules(f"{theirs}.mamba", f"{ours}/mixer", mixer)
    else:
      yield from parts.attention(f"{theirs}.self_attn", f"{ours}/mixer", mixer)
    yield from _mlp_rules(theirs, f"{ours}/mlp", mlp_of(model, i))


def _mlp_rules(
  theirs: str, ours: str, mlp: GatedMLP | SparseMoE
) -> Iterator[r.Rule]:
  shared = ours
  if isinstance(mlp, SparseMoE):
    hidden, shared = mlp.shared_hidden or 0, f"{ours}/shared"
    moe = f"{theirs}.block_sparse_moe"
    yield r.kernel(f"{moe}.router.layer.weight", f"{ours}/router/kernel")
    yield _fused(f"{moe}.input_linear.weight", f"{ours}/gate", f"{ours}/value")
    yield r.kernel(f"{moe}.output_linear.weight", f"{ours}/output")
  else:
    hidden = mlp.gated_width()
  fused = [f"{shared}/{name}/kernel" for name in ("gate", "value")]
  theirs = f"{theirs}.shared_mlp"
  yield r.split(f"{theirs}.input_linear.weight", fused, (hidden, hidden))
  yield from r.dense(f"{theirs}.output_linear", f"{shared}/output")


def _fused(theirs: str, *ours: str) -> r.Rule:
  """Gates and values of all experts: theirs [E, 2 F, D], ours [E, D, F]."""

  def read(tensors: r.Arrays) -> r.Arrays:
    return [np.swapaxes(x, 1, 2) for x in np.split(tensors[0], len(ours), 1)]

  def write(parameters: r.Arrays) -> r.Arrays:
    return [np.concatenate([np.swapaxes(x, 1, 2) for x in parameters], 1)]

  return r.Rule((theirs,), ours, read, write)


FAMILY = Family(
  name="granitemoehybrid",
  model_types=("granitemoehybrid",),
  architecture="GraniteMoeHybridForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba2, SoftmaxAttention),
)
