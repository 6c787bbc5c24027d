"""Falcon-H1: `FalconH1ForCausalLM` of transformers.

Zuo et al. 2025, arXiv:2507.22448. Each layer has Mamba-2 and softmax attention
beside one another, and a gated MLP. Factors of the maximal update
parametrisation stay fields of the layers, so that weights do not change.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import mamba_keys as keys
from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families.mamba2 import mixer_rules
from jaxmodels.interop.family import Family, mixer_of, mlp_of
from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import Mamba2, Parallel, SoftmaxAttention
from jaxmodels.models import LanguageModel

_ONES = (1.0,) * 5


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  epsilon = config.get("rms_norm_eps", 1e-5)
  config.ignore("num_logits_to_keep", "layers_block_type", "layer_types")
  config.ignore("mlp_expansion_factor", *keys.INITIAL)
  config.expect("mamba_use_mlp", True)
  gate, down = config.get("mlp_multipliers") or _ONES[:2]
  mlp = GatedMLP(
    width,
    hidden=config.get("intermediate_size", 14336),
    activation=read_activation(config, "hidden_act", "silu"),
    use_bias=config.get("mlp_bias", False),
    gate_scale=gate,
  )
  return LanguageModel(
    vocab_size=config.get("vocab_size", 128000),
    width=width,
    depth=config.get("num_hidden_layers", 32),
    mixers=(_mixer(config, width, epsilon),),
    mlp=mlp,
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=epsilon,
    residual_scale=1.0 if down == 1 else ((1.0, down),),
    embedding_scale=config.get("embedding_multiplier", 1.0),
    logits_scale=config.get("lm_head_multiplier", 1.0),
  )


def _mixer(config: Config, width: int, epsilon: float) -> Parallel:
  """Mamba-2 and softmax attention."""
  attention = keys.read_attention(
    config,
    width,
    max_length=8192,
    kv_heads=8,
    key_factor=config.get("key_multiplier", 1.0),
  )
  if attention.rotary_fraction != 1:
    raise FolderError(f"{config.where}: partial_rotary_factor must be 1")
  return Parallel(
    width,
    mixers=(_mamba(config, width, epsilon), attention),
    input_factors=_factors(config, "ssm_in", "attention_in"),
    output_factors=_factors(config, "ssm_out", "attention_out"),
  )


def _factors(config: Config, *names: str) -> tuple[float, ...] | None:
  """Factors of the two branches; None if both are 1."""
  factors = tuple(config.get(f"{name}_multiplier", 1.0) for name in names)
  return None if factors == _ONES[:2] else factors


def _mamba(config: Config, width: int, epsilon: float) -> Mamba2:
  inner = config.get("mamba_d_ssm", 1024)
  if inner is None:
    inner = int(config.get("mamba_expand", 2) * width)
  norm = "before" if config.get("mamba_norm_before_gate", True) else "after"
  factors = tuple(config.get("ssm_multipliers") or _ONES)
  fields = keys.read_mamba(config, width, epsilon, inner)
  fields["output_bias"] = config.get("projectors_bias", False)
  return Mamba2(
    width,
    **fields,
    gated_norm=norm if config.get("mamba_rms_norm", False) else "none",
    input_factors=None if factors == _ONES else factors,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mlp = keys.gated_mlp_of(model)
  mixer = mixer_of(model, 0)
  kinds = tuple(type(branch) for branch in mixer.mixers)
  if kinds != (Mamba2, SoftmaxAttention):
    raise FolderError("its mixers are not Mamba2 and SoftmaxAttention")
  mamba, attention = mixer.mixers
  _, down = model.blocks()[0].residual_scale
  return {
    **keys.write_mamba(mamba),
    **keys.write_attention(attention),
    **_write_factors(mixer, mamba, attention),
    "embedding_multiplier": model.embedding_scale,
    "hidden_act": written_activation(mlp.activation),
    "hidden_size": model.width,
    "intermediate_size": mlp.gated_width(),
    "lm_head_multiplier": model.logits_scale,
    "mamba_d_ssm": mamba.inner_width,
    "mamba_norm_before_gate": mamba.gated_norm == "before",
    "mamba_rms_norm": mamba.gated_norm != "none",
    "mlp_bias": mlp.use_bias,
    "mlp_multipliers": [mlp.gate_scale, down],
    "num_hidden_layers": model.depth,
    "projectors_bias": mamba.output_bias,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }


def _write_factors(
  mixer: Parallel, mamba: Mamba2, attention: SoftmaxAttention
) -> dict[str, Any]:
  """The factors of the mixer and of its branches."""
  size = attention.head_width or attention.width // attention.heads
  before = mixer.input_factors or _ONES[:2]
  after = mixer.output_factors or _ONES[:2]
  scale = size**-0.5 if attention.scale is None else attention.scale
  names = ("ssm", "attention")
  return {
    **{f"{n}_in_multiplier": x for n, x in zip(names, before, strict=True)},
    **{f"{n}_out_multiplier": x for n, x in zip(names, after, strict=True)},
    "key_multiplier": keys.solution(
      lambda x: x * size**-0.5, scale, scale * size**0.5
    ),
    "ssm_multipliers": list(mamba.input_factors or _ONES),
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from parts.outside(model, "model.embed_tokens", "model.final_layernorm")
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mamba, attention = mixer_of(model, i).mixers
    yield r.same(f"{theirs}.input_layernorm.weight", f"{ours}/mixer_norm/scale")
    yield r.same(f"{theirs}.pre_ff_layernorm.weight", f"{ours}/mlp_norm/scale")
    yield from parts.gated_mlp(
      f"{theirs}.feed_forward", f"{ours}/mlp", bias=mlp_of(model, i).use_bias
    )
    yield from mixer_rules(f"{theirs}.mamba", f"{ours}/mixer/branch_0", mamba)
    yield from parts.attention(
      f"{theirs}.self_attn", f"{ours}/mixer/branch_1", attention
    )


FAMILY = Family(
  name="falcon_h1",
  model_types=("falcon_h1",),
  architecture="FalconH1ForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Parallel,),
)
