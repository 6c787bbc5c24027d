"""Jamba: `JambaForCausalLM` of transformers.

Lieber et al. 2024, arXiv:2403.19887. A layer is Mamba, with an RMSNorm after
the projections to the step, B and C, or softmax attention without positions;
and a gated MLP or a mixture of experts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families import mamba as plain
from jaxmodels.interop.family import Family, embedding_rules, mixer_of, mlp_of
from jaxmodels.interop.parts import attention, gated_mlp, shortest
from jaxmodels.layers import GatedMLP, SparseMoE
from jaxmodels.mixers import Mamba, SoftmaxAttention
from jaxmodels.models import LanguageModel

_NEUTRAL = (
  "calc_logits_for_entire_prompt", "n_ctx", "num_logits_to_keep",
  "use_associative_scan", "use_mamba_kernels", "use_mambapy",
)  # fmt: skip


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  depth = config.get("num_hidden_layers", 32)
  epsilon = config.get("rms_norm_eps", 1e-6)
  config.ignore(*_NEUTRAL)
  config.expect("mamba_inner_layernorms", True)
  config.expect("sliding_window", None)
  mixers = {False: _read_mamba(config, width), True: _attention(config, width)}
  mlps = _read_mlps(config, width)
  attends = _places(config, "attn", (8, 4), depth)
  routes = _places(config, "expert", (2, 1), depth)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 65536),
    width=width,
    depth=depth,
    mixers=shortest([mixers[chosen] for chosen in attends]),
    mlp=shortest([mlps[chosen] for chosen in routes]),
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=epsilon,
  )


def _places(
  config: Config, kind: str, default: tuple[int, int], depth: int
) -> list[bool]:
  """Whether each layer is the one of its period that `kind` names."""
  period = config.get(f"{kind}_layer_period", default[0])
  offset = config.get(f"{kind}_layer_offset", default[1])
  return [i % period == offset for i in range(depth)]


def _read_mamba(config: Config, width: int) -> Mamba:
  return Mamba(
    width,
    expand=config.get("mamba_expand", 2),
    state_width=config.get("mamba_d_state", 16),
    step_rank=plain.read_rank(config, "mamba_dt_rank", width),
    kernel_width=config.get("mamba_d_conv", 4),
    use_bias=config.get("mamba_proj_bias", False),
    convolution_bias=config.get("mamba_conv_bias", True),
    activation=read_activation(config, "hidden_act", "silu"),
    step_norms="scaled",
    norm_epsilon=config.get("rms_norm_eps", 1e-6),
  )


def _attention(config: Config, width: int) -> SoftmaxAttention:
  heads = config.get("num_attention_heads", 32)
  return SoftmaxAttention(
    width,
    heads=heads,
    kv_heads=config.get("num_key_value_heads", 8) or heads,
    head_width=config.get("head_dim") or width // heads,
    max_length=config.get("max_position_embeddings", 262144),
    rotary_fraction=0.0,
  )


def _read_mlps(config: Config, width: int) -> dict[bool, Any]:
  """The MLP, and the mixture of experts if there are several."""
  hidden = config.get("intermediate_size", 14336)
  activation = read_activation(config, "hidden_act", "silu")
  mlp: Any = GatedMLP(width, hidden=hidden, activation=activation)
  experts = config.first(("num_experts", "num_local_experts"), 16)
  routed = SparseMoE(
    width,
    hidden=hidden,
    experts=experts,
    top_k=config.get("num_experts_per_tok", 2),
    normalize=False,
    activation=activation,
  )
  return {False: mlp, True: routed if experts > 1 else mlp}


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  mlps = [mlp_of(model, i) for i in range(model.depth)]
  if not isinstance(mlps[0], GatedMLP | SparseMoE):
    raise FolderError("jamba needs an MLP in each layer")
  attends = [isinstance(mixer, SoftmaxAttention) for mixer in mixers]
  routes = [isinstance(mlp, SparseMoE) for mlp in mlps]
  keys = {
    **_written_places("attn", attends),
    **_written_places("expert", routes),
    "hidden_act": written_activation(mlps[0].activation),
    "hidden_size": model.width,
    "intermediate_size": mlps[0].hidden,
    "num_experts": 1,
    "num_hidden_layers": model.depth,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }
  if any(attends):
    keys |= _written_attention(mixers[attends.index(True)])
  if not all(attends):
    keys |= _written_mamba(mixers[attends.index(False)])
  if any(routes):
    routed: Any = mlps[routes.index(True)]
    keys["num_experts"] = routed.experts
    keys["num_experts_per_tok"] = routed.top_k
  return keys


def _written_places(kind: str, places: Sequence[bool]) -> dict[str, int]:
  """The period and the offset that give these places."""
  found = [i for i, chosen in enumerate(places) if chosen]
  # Of a single layer, or of none, only the offset matters.
  offset = found[0] if found else len(places)
  period = found[1] - offset if len(found) > 1 else len(places) + 1
  return {f"{kind}_layer_offset": offset, f"{kind}_layer_period": period}


def _written_attention(mixer: SoftmaxAttention) -> dict[str, Any]:
  keys = {
    "max_position_embeddings": mixer.max_length,
    "num_attention_heads": mixer.heads,
    "num_key_value_heads": mixer.kv_heads,
  }
  if mixer.head_width != mixer.width // mixer.heads:
    keys["head_dim"] = mixer.head_width
  return keys


def _written_mamba(mixer: Mamba) -> dict[str, Any]:
  return {
    "mamba_conv_bias": mixer.convolution_bias,
    "mamba_d_conv": mixer.kernel_width,
    "mamba_d_state": mixer.state_width,
    "mamba_dt_rank": plain.step_rank(mixer),
    "mamba_expand": mixer.expand,
    "mamba_proj_bias": mixer.use_bias,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from embedding_rules(model)
  yield r.same("model.final_layernorm.weight", "backbone/norm/scale")
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer, mlp = mixer_of(model, i), mlp_of(model, i)
    yield r.same(f"{theirs}.input_layernorm.weight", f"{ours}/mixer_norm/scale")
    yield r.same(f"{theirs}.pre_ff_layernorm.weight", f"{ours}/mlp_norm/scale")
    if isinstance(mixer, Mamba):
      yield from _mamba_rules(f"{theirs}.mamba", f"{ours}/mixer", mixer)
    else:
      yield from attention(f"{theirs}.self_attn", f"{ours}/mixer", mixer)
    if isinstance(mlp, SparseMoE):
      yield from _expert_rules(f"{theirs}.feed_forward", f"{ours}/mlp", mlp)
    else:
      yield from gated_mlp(f"{theirs}.feed_forward", f"{ours}/mlp")


def _mamba_rules(theirs: str, ours: str, mixer: Mamba) -> Iterator[r.Rule]:
  yield from plain.mixer_rules(theirs, ours, mixer)
  for their, our in (("dt", "step"), ("b", "B"), ("c", "C")):
    yield r.same(
      f"{theirs}.{their}_layernorm.weight", f"{ours}/{our}_norm/scale"
    )


def _expert_rules(theirs: str, ours: str, mlp: SparseMoE) -> Iterator[r.Rule]:
  yield r.kernel(f"{theirs}.router.weight", f"{ours}/router/kernel")
  names = {"gate": "gate_proj", "value": "up_proj", "output": "down_proj"}
  for our, their in names.items():
    each = [f"{theirs}.experts.{e}.{their}.weight" for e in range(mlp.experts)]
    yield r.stacked(each, f"{ours}/{our}")


FAMILY = Family(
  name="jamba",
  model_types=("jamba",),
  architecture="JambaForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba, SoftmaxAttention),
)
