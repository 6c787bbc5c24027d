"""Kimi Linear: `KimiLinearForCausalLM` of transformers.

Kimi Team 2025, arXiv:2510.26692: layers of Kimi Delta Attention, layers of
latent attention without positions, and experts. transformers writes all channel
mixers under `block_sparse_moe`; published files have `mlp` in dense layers.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import parts, qwen
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family
from jaxmodels.layers import GatedMLP, SparseMoE
from jaxmodels.mixers import KDA, LatentAttention
from jaxmodels.models import LanguageModel

_LINEAR, _FULL = "linear_attention", "full_attention"
# Keys of published files that hold for all of them, or repeat others.
_NEUTRAL = (
  "head_dim",
  "num_key_value_heads",
  "num_nextn_predict_layers",
  "pretraining_tp",
  "qk_head_dim",
  "rope_parameters",
  "rope_scaling",
  "rope_theta",
  "use_grouped_topk",
)


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 2304)
  depth = config.get("num_hidden_layers", 27)
  config.expect("mla_use_nope", True)
  config.expect("moe_layer_freq", 1)
  config.expect("moe_router_activation_func", "sigmoid")
  # The public implementation has two tables whatever this key says.
  config.ignore("tie_word_embeddings", *_NEUTRAL)
  part = config.part("linear_attn_config")
  linear, full = _read_linear(config, part, width), _read_full(config, width)
  dense = qwen.read_dense(config, width, 9216)
  sparse = _read_experts(config, width)
  kinds, mlps = _layer_kinds(config, part, depth), _mlp_kinds(config, depth)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 163_840),
    width=width,
    depth=depth,
    mixers=parts.shortest([linear if k == _LINEAR else full for k in kinds]),
    mlp=parts.shortest([dense if k == "dense" else sparse for k in mlps]),
    tie_embeddings=False,
    norm_epsilon=config.get("rms_norm_eps", 1e-5),
  )


def _layer_kinds(config: Config, part: Config, depth: int) -> list[str]:
  """Whether each layer has linear or full attention."""
  full, linear = part.get("full_attn_layers"), part.get("kda_layers")
  kinds = config.get("layer_types")
  if kinds is None and full is not None and linear is not None:
    # Published files count layers from 1.
    places = dict.fromkeys(linear, _LINEAR) | dict.fromkeys(full, _FULL)
    kinds = [places.get(i + 1) for i in range(depth)]
  elif kinds is None:
    kinds = [_FULL if i and i % 4 == 0 else _LINEAR for i in range(depth)]
  return _checked(config, "layer_types", kinds, depth, (_LINEAR, _FULL))


def _mlp_kinds(config: Config, depth: int) -> list[str]:
  first = config.get("first_k_dense_replace", 1)
  kinds = config.get("mlp_layer_types")
  if kinds is None:
    kinds = ["dense" if i < first else "sparse" for i in range(depth)]
  known = "dense", "sparse"
  return _checked(config, "mlp_layer_types", kinds, depth, known)


def _checked(
  config: Config, key: str, kinds: list[Any], depth: int, known: tuple[str, str]
) -> list[str]:
  if len(kinds) != depth or set(kinds) - set(known):
    raise FolderError(
      f"{config.where}: {key} must be {depth} times {known[0]} or {known[1]}, "
      f"got {kinds!r}"
    )
  return list(kinds)


def _read_linear(config: Config, part: Config, width: int) -> KDA:
  def size(key: str, older: str, default: int) -> int:
    return part.get(older, config.get(key, default))

  head_width = size("linear_head_dim", "head_dim", 128)
  return KDA(
    width,
    heads=size("linear_num_heads", "num_heads", 32),
    key_width=head_width,
    value_width=head_width,
    gate_rank=head_width,
    output_gate_rank=head_width,
    kernel_width=size("linear_conv_kernel_dim", "short_conv_kernel_size", 4),
    norm_epsilon=config.get("rms_norm_eps", 1e-5),
    **qwen.activations(config),
  )


def _read_full(config: Config, width: int) -> LatentAttention:
  lengths = "model_max_length", "max_position_embeddings"
  return LatentAttention(
    width,
    heads=config.get("num_attention_heads", 32),
    rank=config.get("kv_lora_rank", 512),
    query_rank=config.get("q_lora_rank"),
    key_width=config.get("qk_nope_head_dim", 128),
    rotary_width=config.get("qk_rope_head_dim", 64),
    value_width=config.get("v_head_dim", 128),
    max_length=config.first(lengths, 1_048_576),
    rotary=False,
    bias=config.get("attention_bias", False),
    norm_epsilon=1e-6,
  )


def _read_experts(config: Config, width: int) -> SparseMoE:
  hidden = config.get("moe_intermediate_size", 1024)
  shared = config.first(("num_shared_experts", "n_shared_experts"), 1)
  normalize = config.first(("moe_renormalize", "norm_topk_prob"), True)
  top_k = config.first(("num_experts_per_token", "num_experts_per_tok"), 8)
  return SparseMoE(
    width,
    hidden,
    experts=config.first(("num_experts", "num_local_experts"), 256),
    top_k=top_k,
    balance_loss=config.get("router_aux_loss_coef", 0.0),
    activation=read_activation(config, "hidden_act", "silu"),
    router="sigmoid",
    normalize=normalize,
    normalize_epsilon=1e-20,
    routed_scale=float(config.get("routed_scaling_factor", 2.446)),
    router_bias=True,
    groups=config.first(("num_expert_group", "n_group"), 1),
    top_groups=config.get("topk_group", 1),
    shared_hidden=hidden * shared,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  blocks = model.blocks()
  mixers = [block.mixer.module for block in blocks]
  mlps = [None if b.mlp is None else b.mlp.module for b in blocks]
  values = {
    "hidden_size": model.width,
    "layer_types": [_LINEAR if isinstance(m, KDA) else _FULL for m in mixers],
    "mlp_layer_types": [
      "sparse" if isinstance(mlp, SparseMoE) else "dense" for mlp in mlps
    ],
    "num_hidden_layers": model.depth,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": False,
    "vocab_size": model.vocab_size,
  }
  for part in (*mixers, *mlps):
    for kind, keys in _WRITERS.items():
      if isinstance(part, kind):
        values |= keys(part)
  return values


def _write_linear(mixer: KDA) -> dict[str, Any]:
  return {
    "hidden_act": written_activation(mixer.qk_activation),
    "linear_conv_kernel_dim": mixer.kernel_width,
    "linear_head_dim": mixer.key_width,
    "linear_num_heads": mixer.heads,
  }


def _write_full(mixer: LatentAttention) -> dict[str, Any]:
  return {
    "attention_bias": mixer.bias,
    "kv_lora_rank": mixer.rank,
    "model_max_length": mixer.max_length,
    "num_attention_heads": mixer.heads,
    "num_key_value_heads": mixer.heads,
    "q_lora_rank": mixer.query_rank,
    "qk_nope_head_dim": mixer.key_width,
    "qk_rope_head_dim": mixer.rotary_width,
    "v_head_dim": mixer.value_width,
  }


def _write_experts(mlp: SparseMoE) -> dict[str, Any]:
  return {
    "hidden_act": written_activation(mlp.activation),
    "moe_intermediate_size": mlp.hidden,
    "moe_renormalize": mlp.normalize,
    "num_expert_group": mlp.groups,
    "num_experts": mlp.experts,
    "num_experts_per_token": mlp.top_k,
    "num_shared_experts": (mlp.shared_hidden or 0) // (mlp.hidden or 1),
    "routed_scaling_factor": mlp.routed_scale,
    "router_aux_loss_coef": mlp.balance_loss,
    "topk_group": mlp.top_groups,
  }


_WRITERS: dict[type, Any] = {
  KDA: _write_linear,
  LatentAttention: _write_full,
  GatedMLP: qwen.write_dense,
  SparseMoE: _write_experts,
}


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from parts.outside(model)
  for i, block in enumerate(model.blocks()):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    for their, our in (
      ("input_layernorm", "mixer_norm"),
      ("post_attention_layernorm", "mlp_norm"),
    ):
      yield r.same(f"{theirs}.{their}.weight", f"{ours}/{our}/scale")
    mixer: Any = block.mixer.module
    own = _linear_rules if isinstance(mixer, KDA) else _full_rules
    yield from own(f"{theirs}.self_attn", f"{ours}/mixer", mixer)
    mlp = None if block.mlp is None else block.mlp.module
    yield from _mlp_rules(f"{theirs}.block_sparse_moe", f"{ours}/mlp", mlp)


def _linear_rules(theirs: str, ours: str, mixer: KDA) -> Iterator[r.Rule]:
  for their, our in (
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("b_proj", "beta"),
    ("f_a_proj", "decay_down"),
    ("f_b_proj", "decay"),
    ("g_a_proj", "output_gate_down"),
    ("g_b_proj", "output_gate"),
    ("o_proj", "output"),
  ):
    yield from r.dense(f"{theirs}.{their}", f"{ours}/{our}")
  for name in ("query", "key", "value"):
    yield from r.convolution(
      f"{theirs}.{name[0]}_conv1d", f"{ours}/{name}_convolution"
    )
  shape = (1, 1, mixer.heads, 1)
  yield r.same(f"{theirs}.A_log", f"{ours}/A_log", shape)
  yield r.same(f"{theirs}.dt_bias", f"{ours}/dt_bias")
  yield r.same(f"{theirs}.o_norm.weight", f"{ours}/norm/scale")


def _full_rules(
  theirs: str, ours: str, mixer: LatentAttention
) -> Iterator[r.Rule]:
  low = mixer.query_rank is not None
  names = {"kv_a_proj_with_mqa": mixer.bias, "kv_b_proj": False}
  names |= {"o_proj": mixer.bias}
  names |= {"q_a_proj": mixer.bias, "q_b_proj": False} if low else {}
  names |= {} if low else {"q_proj": False}
  for name, bias in names.items():
    yield from r.dense(f"{theirs}.{name}", f"{ours}/{name}", bias)
  for name in ("kv_a_layernorm", "q_a_layernorm")[: 1 + low]:
    yield r.same(f"{theirs}.{name}.weight", f"{ours}/{name}/scale")


def _mlp_rules(theirs: str, ours: str, mlp: Any) -> Iterator[r.Rule]:
  if not isinstance(mlp, SparseMoE):
    yield from parts.gated_mlp(theirs, ours)
    return
  yield from parts.sparse_moe(theirs, ours, mlp, ("w1", "w3", "w2"))
  yield r.same(f"{theirs}.gate.e_score_correction_bias", f"{ours}/router_bias")
  yield from parts.gated_mlp(f"{theirs}.shared_experts", f"{ours}/shared")


FAMILY = Family(
  name="kimi_linear",
  model_types=("kimi_linear",),
  architecture="KimiLinearForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(KDA, LatentAttention),
  rename=((r"^(model\.layers\.\d+)\.mlp\.", r"\1.block_sparse_moe."),),
)
