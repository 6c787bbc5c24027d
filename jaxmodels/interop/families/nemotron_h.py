"""Nemotron-H: `NemotronHForCausalLM` of transformers.

NVIDIA 2025, arXiv:2504.03624. A layer is one of Mamba-2, softmax attention
without positions, an MLP with squared ReLU, and a mixture of experts. Files
have the prefix "backbone.", and models in memory "model.".
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families.mamba2 import mixer_rules
from jaxmodels.interop.family import Family, embedding_rules, mixer_of
from jaxmodels.interop.parts import attention, shortest
from jaxmodels.layers import MLP, SparseMoE
from jaxmodels.mixers import Mamba2, SoftmaxAttention
from jaxmodels.models import LanguageModel

_LETTERS = {"M": Mamba2, "E": SparseMoE, "*": SoftmaxAttention, "-": MLP}
_NAMES = {
  "linear_attention": Mamba2,
  "moe": SparseMoE,
  "full_attention": SoftmaxAttention,
  "mlp": MLP,
}
_OLD = {"mamba": Mamba2, "attention": SoftmaxAttention}
# The implementation has no biases of the attention, and clips only from below.
_NEUTRAL = (
  "attention_bias", "chunk_size", "expand", "mamba_chunk_size",
  "mamba_dt_init_floor", "mamba_dt_limit", "mamba_dt_max", "mamba_expand",
  "mamba_proj_bias", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap",
  "mtp_hybrid_override_pattern", "mtp_layers_block_type", "n_shared_experts",
  "norm_eps", "num_hidden_layers", "num_logits_to_keep",
  "num_nextn_predict_layers", "num_query_groups", "partial_rotary_factor",
  "rescale_prenorm_residual", "residual_in_fp32", "rms_norm_eps",
  "rope_theta", "sliding_window", "tie_word_embeddings", "time_step_floor",
  "time_step_limit", "time_step_max", "time_step_rank", "use_mamba_kernels",
)  # fmt: skip


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  config.ignore(*_NEUTRAL)
  made = {
    Mamba2: _mamba(config, width),
    SoftmaxAttention: _attention(config, width),
    MLP: MLP(
      width,
      hidden=config.get("intermediate_size", 21504),
      activation=read_activation(config, "mlp_hidden_act", "relu2"),
      use_bias=config.get("mlp_bias", False),
    ),
    SparseMoE: _experts(config, width),
  }
  kinds = _kinds(config)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 131072),
    width=width,
    depth=len(kinds),
    mixers=shortest([made[kind] for kind in kinds]),
    mlp="none",
    # The implementation never ties them, whatever `tie_word_embeddings` is.
    tie_embeddings=False,
    norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
  )


def _kinds(config: Config) -> list[type]:
  """The class of each layer, from a list of names or a pattern of letters."""
  config.ignore("hybrid_override_pattern")
  known = _NAMES | _OLD
  layers = config.first(("layers_block_type", "layer_types"), None)
  if layers is None:
    layers = config.get("hybrid_override_pattern")
    known = known if layers is None else _LETTERS
  layers = list(_NAMES) if layers is None else list(layers)
  unknown = sorted(set(layers) - set(known))
  if unknown:
    raise FolderError(
      f"{config.where}: {unknown[0]!r} is no kind of layer; known are "
      f"{', '.join(known)}"
    )
  return [known[layer] for layer in layers]


def _mamba(config: Config, width: int) -> Mamba2:
  bias = config.get("use_bias", False)
  least = config.first(("mamba_dt_min", "time_step_min"), 0.001)
  return Mamba2(
    width,
    heads=config.get("mamba_num_heads", 128),
    head_width=config.get("mamba_head_dim", 64),
    state_width=config.get("ssm_state_size", 128),
    groups=config.first(("mamba_n_groups", "n_groups"), 8),
    kernel_width=config.first(("mamba_d_conv", "conv_kernel"), 4),
    step_limits=(float(least), math.inf),
    input_bias=bias,
    output_bias=bias,
    convolution_bias=config.first(("mamba_conv_bias", "use_conv_bias"), True),
    activation=read_activation(config, "mamba_hidden_act", "silu"),
    norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
  )


def _attention(config: Config, width: int) -> SoftmaxAttention:
  heads = config.get("num_attention_heads", 32)
  return SoftmaxAttention(
    width,
    heads=heads,
    kv_heads=config.get("num_key_value_heads", 8) or heads,
    head_width=config.first(("head_dim", "attention_head_dim"), 128),
    max_length=config.get("max_position_embeddings", 4096),
    rotary_fraction=0.0,
  )


def _experts(config: Config, width: int) -> SparseMoE:
  return SparseMoE(
    width,
    hidden=config.get("moe_intermediate_size", 7688),
    experts=config.first(("n_routed_experts", "num_local_experts"), 8),
    top_k=config.get("num_experts_per_tok", 2),
    router="sigmoid",
    normalize=config.get("norm_topk_prob", True),
    normalize_epsilon=1e-20,
    routed_scale=float(config.get("routed_scaling_factor", 1.0)),
    router_bias=True,
    groups=config.get("n_group", 1),
    top_groups=config.get("topk_group", 1),
    activation=read_activation(config, "mlp_hidden_act", "relu2"),
    gated=False,
    shared_hidden=config.get("moe_shared_expert_intermediate_size", 7688),
    latent=config.get("moe_latent_size"),
    use_bias=config.get("mlp_bias", False),
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  layers = [mixer_of(model, i) for i in range(model.depth)]
  names = {kind: name for name, kind in _NAMES.items()}
  keys = {
    "hidden_size": model.width,
    "layer_norm_epsilon": model.norm_epsilon,
    "layers_block_type": [names[type(layer)] for layer in layers],
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }
  written: dict[type, Callable[[Any], dict[str, Any]]] = {
    Mamba2: _written_mamba,
    SoftmaxAttention: _written_attention,
    MLP: _written_mlp,
    SparseMoE: _written_experts,
  }
  for kind, write_layer in written.items():
    found = [layer for layer in layers if type(layer) is kind]
    keys |= write_layer(found[0]) if found else {}
  return keys


def _written_mamba(mixer: Mamba2) -> dict[str, Any]:
  return {
    "conv_kernel": mixer.kernel_width,
    "mamba_head_dim": mixer.head_width,
    "mamba_hidden_act": written_activation(mixer.activation),
    "mamba_num_heads": mixer.inner_width // mixer.head_width,
    "n_groups": mixer.groups,
    "ssm_state_size": mixer.state_width,
    "time_step_min": mixer.step_limits[0],
    "use_bias": mixer.input_bias,
    "use_conv_bias": mixer.convolution_bias,
  }


def _written_attention(mixer: SoftmaxAttention) -> dict[str, Any]:
  return {
    "head_dim": mixer.head_width,
    "max_position_embeddings": mixer.max_length,
    "num_attention_heads": mixer.heads,
    "num_key_value_heads": mixer.kv_heads,
  }


def _written_mlp(mlp: MLP) -> dict[str, Any]:
  return {
    "intermediate_size": mlp.hidden,
    "mlp_bias": mlp.use_bias,
    "mlp_hidden_act": written_activation(mlp.activation),
  }


def _written_experts(mlp: SparseMoE) -> dict[str, Any]:
  return {
    "mlp_bias": mlp.use_bias,
    "mlp_hidden_act": written_activation(mlp.activation),
    "moe_intermediate_size": mlp.hidden,
    "moe_latent_size": mlp.latent,
    "moe_shared_expert_intermediate_size": mlp.shared_hidden,
    "n_group": mlp.groups,
    "n_routed_experts": mlp.experts,
    "norm_topk_prob": mlp.normalize,
    "num_experts_per_tok": mlp.top_k,
    "routed_scaling_factor": mlp.routed_scale,
    "topk_group": mlp.top_groups,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from embedding_rules(model, "backbone.embeddings.weight")
  yield r.same("backbone.norm_f.weight", "backbone/norm/scale")
  for i in range(model.depth):
    theirs, ours = f"backbone.layers.{i}", f"backbone/layer_{i}"
    yield r.same(f"{theirs}.norm.weight", f"{ours}/mixer_norm/scale")
    theirs, ours = f"{theirs}.mixer", f"{ours}/mixer"
    layer = mixer_of(model, i)
    if isinstance(layer, Mamba2):
      yield from mixer_rules(theirs, ours, layer)
    elif isinstance(layer, SoftmaxAttention):
      yield from attention(theirs, ours, layer)
    elif isinstance(layer, SparseMoE):
      yield from _expert_rules(theirs, ours, layer)
    else:
      yield from _mlp_rules(theirs, ours, layer.use_bias)


def _mlp_rules(theirs: str, ours: str, bias: bool) -> Iterator[r.Rule]:
  yield from r.dense(f"{theirs}.up_proj", f"{ours}/input", bias)
  yield from r.dense(f"{theirs}.down_proj", f"{ours}/output", bias)


def _expert_rules(theirs: str, ours: str, mlp: SparseMoE) -> Iterator[r.Rule]:
  yield r.kernel(f"{theirs}.gate.weight", f"{ours}/router/kernel")
  bias = f"{theirs}.gate.e_score_correction_bias"
  yield r.same(bias, f"{ours}/router_bias")
  for our, their in (("input", "up_proj"), ("output", "down_proj")):
    each = [f"{theirs}.experts.{e}.{their}.weight" for e in range(mlp.experts)]
    yield r.stacked(each, f"{ours}/{our}")
  shared = f"{theirs}.shared_experts"
  yield from _mlp_rules(shared, f"{ours}/shared", mlp.use_bias)
  if mlp.latent is not None:
    for place, end in (("1", "input"), ("2", "output")):
      latent = f"{theirs}.fc{place}_latent_proj"
      yield from r.dense(latent, f"{ours}/latent_{end}", mlp.use_bias)


FAMILY = Family(
  name="nemotron_h",
  model_types=("nemotron_h",),
  architecture="NemotronHForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba2, SoftmaxAttention, MLP, SparseMoE),
  rename=((r"^model\.", "backbone."),),
  skip=(r".*mtp\.",),
)
