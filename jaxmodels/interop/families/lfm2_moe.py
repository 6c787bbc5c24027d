"""LFM2 with experts: `Lfm2MoeForCausalLM` of transformers.

Liquid AI 2025, arXiv:2511.23404. The mixers are those of LFM2. The first layers
have gated MLPs, and the others sparse mixtures of experts with the scores of a
sigmoid and, if the config says so, a bias of the choice.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import lfm2
from jaxmodels.interop.family import Family, mlp_of
from jaxmodels.layers import GatedMLP, SparseMoE
from jaxmodels.mixers import GatedConvolution, SoftmaxAttention
from jaxmodels.models import LanguageModel

_NAMES = ("w1", "w3", "w2")


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 2048)
  depth = config.get("num_hidden_layers", 32)
  dense = min(config.get("num_dense_layers", 2), depth)
  config.expect("num_heads", config.get("num_attention_heads", 32))
  mlp = GatedMLP(width, config.get("intermediate_size", 7168))
  routed = SparseMoE(
    width,
    config.get("moe_intermediate_size", 1792),
    experts=config.get("num_experts", 32),
    top_k=config.get("num_experts_per_tok", 4),
    router="sigmoid",
    normalize=config.get("norm_topk_prob", True),
    normalize_epsilon=1e-6,
    routed_scale=config.get("routed_scaling_factor", 1.0),
    router_bias=config.get("use_expert_bias", True),
  )
  mlps = parts.shortest([mlp] * dense + [routed] * (depth - dense))
  return lfm2.model_of(config, width, config["layer_types"], mlps)


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mlps = [mlp_of(model, i) for i in range(model.depth)]
  values = lfm2.stack(model)
  dense = [mlp for mlp in mlps if isinstance(mlp, GatedMLP)]
  values["num_dense_layers"] = len(dense)
  if dense:
    values["intermediate_size"] = dense[0].hidden
  for mlp in mlps:
    if isinstance(mlp, SparseMoE):
      values |= {
        "moe_intermediate_size": mlp.hidden,
        "norm_topk_prob": mlp.normalize,
        "num_experts": mlp.experts,
        "num_experts_per_tok": mlp.top_k,
        "routed_scaling_factor": mlp.routed_scale,
        "use_expert_bias": mlp.router_bias,
      }
  return values


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from lfm2.stack_rules(model)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}.feed_forward", f"backbone/layer_{i}/mlp"
    mlp = mlp_of(model, i)
    if not isinstance(mlp, SparseMoE):
      yield from parts.gated_mlp(theirs, ours, _NAMES)
      continue
    yield from parts.sparse_moe(theirs, ours, mlp, _NAMES)
    if mlp.router_bias:
      yield r.same(f"{theirs}.expert_bias", f"{ours}/router_bias")


FAMILY = Family(
  name="lfm2_moe",
  model_types=("lfm2_moe",),
  architecture="Lfm2MoeForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GatedConvolution, SoftmaxAttention),
)
