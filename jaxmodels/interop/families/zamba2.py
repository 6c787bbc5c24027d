"""Zamba2: `Zamba2ForCausalLM` of transformers.

Glorioso et al. 2024, arXiv:2411.15242. A layer is Mamba-2, or a hybrid: Mamba-2
behind a transformer block, see `jaxmodels.models.shared_block`. The tensors of
a shared block, and the adapters of all of its uses, have the name of the first
layer that uses it. If `tie_word_embeddings` is false, the implementation does
not tie the blocks either: each hybrid has one of its own. Its block then has
adapters of other layers too, which nothing uses; they are left out.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn

from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families.mamba2 import mixer_rules
from jaxmodels.interop.family import Family, embedding_rules, mixer_of
from jaxmodels.interop.parts import shortest
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.mixers import Mamba2, SoftmaxAttention
from jaxmodels.models import LanguageModel
from jaxmodels.models.shared_block import SharedBlock

# The layers of the class, where a config has none.
_DEFAULT = "m" + "mmmmmh" * 7 + "mmmmh" + "mmmh" + "mm"
_KINDS = {"mamba": False, "linear_attention": False, "hybrid": True}
_NEUTRAL = (
  "chunk_size", "hybrid_layer_ids", "kv_channels", "mamba_headdim",
  "num_hidden_layers", "num_logits_to_keep", "num_query_groups",
  "time_step_floor", "time_step_limit", "time_step_max", "use_conv_bias",
  "use_mamba_kernels", "use_mem_eff_path",
)  # fmt: skip


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 2560)
  epsilon = config.get("rms_norm_eps", 1e-5)
  config.ignore(*_NEUTRAL)
  config.expect("use_shared_mlp_adapter", True)
  mamba = _read_mamba(config, width)
  hidden = config.get("intermediate_size") or 4 * width
  hybrid = SharedBlock(
    width,
    inner=("mamba2", mamba),
    attention=_read_attention(config, width),
    hidden=hidden,
    activation=read_activation(config, "hidden_act", "gelu"),
    use_bias=config.get("add_bias_linear", False),
    adapter_rank=config.get("adapter_rank", 128),
    attention_adapters=config.get("use_shared_attention_adapter", False),
    norm_epsilon=epsilon,
  )
  kinds = read_kinds(config, [kind == "h" for kind in _DEFAULT])
  blocks = config.get("num_mem_blocks", 1)
  tied = config.get("tie_word_embeddings", True)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 32000),
    width=width,
    depth=len(kinds),
    **layers(kinds, Mamba2(width, **mamba), hybrid, blocks if tied else None),
    mlp="none",
    tie_embeddings=tied,
    norm_epsilon=epsilon,
  )


def read_kinds(config: Config, default: Sequence[bool]) -> list[bool]:
  """Whether each layer is a hybrid."""
  kinds = config.first(("layers_block_type", "layer_types"), None)
  if kinds is None:
    return list(default)
  unknown = sorted(set(kinds) - set(_KINDS))
  if unknown:
    raise FolderError(
      f"{config.where}: layers_block_type has {unknown[0]!r}; known are "
      f"{', '.join(_KINDS)}"
    )
  return [_KINDS[kind] for kind in kinds]


def layers(
  kinds: Sequence[bool], plain: Any, hybrid: SharedBlock, blocks: int | None
) -> dict[str, Any]:
  """The mixers and layouts; hybrids use the shared blocks in turns.

  Args:
    kinds: Whether each layer is a hybrid.
    plain: The mixer of the other layers.
    hybrid: That of hybrids.
    blocks: The number of shared blocks; None for one per hybrid.
  """
  mixers, uses = [], 0
  blocks = blocks or max(1, sum(kinds))
  for kind in kinds:
    mixers.append(hybrid.copy(block=uses % blocks) if kind else plain)
    uses += kind
  layouts = ["no_norm" if kind else "pre_norm" for kind in kinds]
  return {"mixers": shortest(mixers), "layout": shortest(layouts)}


def _read_mamba(config: Config, width: int) -> nn.FrozenDict:
  """The fields of Mamba-2 without the width."""
  expand, heads = config.get("mamba_expand", 2), config.get("n_mamba_heads", 8)
  bias = config.get("add_bias_linear", False)
  return nn.FrozenDict(
    expand=expand,
    head_width=expand * width // heads,
    state_width=config.get("mamba_d_state", 64),
    groups=config.get("mamba_ngroups", 1),
    kernel_width=config.get("mamba_d_conv", 4),
    step_limits=(config.get("time_step_min", 0.001), math.inf),
    input_bias=bias,
    output_bias=bias,
    norm_epsilon=1e-5,
  )


def _read_attention(config: Config, width: int) -> nn.FrozenDict:
  """The fields of the attention without the width."""
  length = config.get("max_position_embeddings", 4096)
  if config.get("use_long_context", False):
    length = 16384
  fields = read_heads(config, width, heads=32)
  rotary = read_rotary(config, fields["head_width"], length)
  if not config.get("use_mem_rope", False):
    rotary = {"rotary_fraction": 0.0}
  return nn.FrozenDict(**fields, max_length=length, **rotary)


def read_heads(config: Config, width: int, heads: int) -> dict[str, int]:
  """The numbers and the width of the heads, `heads` where a config has none."""
  heads = config.get("num_attention_heads", heads)
  config.expect("attention_hidden_size", 2 * width)
  size = config.first(("attention_head_dim", "head_dim"), None)
  return {
    "heads": heads,
    "kv_heads": config.get("num_key_value_heads") or heads,
    "head_width": size or 2 * width // heads,
  }


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  hybrids = [mixer for mixer in mixers if isinstance(mixer, SharedBlock)]
  mamba = mixers[0]
  if isinstance(mamba, SharedBlock):
    mamba = mamba.inner_module()
  if not isinstance(mamba, Mamba2):
    raise FolderError("the mixer must be Mamba2")
  return {
    "add_bias_linear": mamba.input_bias,
    "hidden_size": model.width,
    "mamba_d_conv": mamba.kernel_width,
    "mamba_d_state": mamba.state_width,
    "mamba_expand": mamba.expand,
    "mamba_headdim": mamba.head_width,
    "mamba_ngroups": mamba.groups,
    "n_mamba_heads": mamba.inner_width // mamba.head_width,
    "num_mem_blocks": 1 + max(getattr(m, "block", 0) for m in mixers),
    "time_step_min": mamba.step_limits[0],
    "use_long_context": False,
    **(_write_hybrid(hybrids[0]) if hybrids else {}),
    **write_layers(model, mixers),
  }


def write_layers(model: LanguageModel, mixers: Sequence[Any]) -> dict[str, Any]:
  """The keys of the stack."""
  kinds = [isinstance(mixer, SharedBlock) for mixer in mixers]
  return {
    "layers_block_type": [
      "hybrid" if kind else "linear_attention" for kind in kinds
    ],
    "num_hidden_layers": model.depth,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }


def write_heads(mixer: SharedBlock) -> dict[str, Any]:
  """The keys of the attention of a hybrid."""
  attention = attention_of(mixer)
  return {
    "attention_head_dim": attention.head_width,
    "attention_hidden_size": attention.width,
    "hidden_act": written_activation(mixer.activation),
    "intermediate_size": mixer.hidden,
    "max_position_embeddings": attention.max_length,
    "num_attention_heads": attention.heads,
    "num_key_value_heads": attention.kv_heads,
  }


def attention_of(mixer: SharedBlock) -> SoftmaxAttention:
  """The attention of a hybrid, without its weights."""
  fields: Any = mixer.attention
  return SoftmaxAttention(2 * mixer.width, **fields)


def _write_hybrid(mixer: SharedBlock) -> dict[str, Any]:
  attention = attention_of(mixer)
  rotates = attention.rotary_fraction != 0
  return {
    **write_heads(mixer),
    "adapter_rank": mixer.adapter_rank,
    "use_mem_rope": rotates,
    "use_shared_attention_adapter": mixer.attention_adapters,
    **({"rope_parameters": write_rotary(attention)} if rotates else {}),
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from embedding_rules(model)
  yield r.same("model.final_layernorm.weight", "backbone/norm/scale")
  first: dict[int, str] = {}
  uses = 0
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer = mixer_of(model, i)
    if not isinstance(mixer, SharedBlock):
      norm = f"{theirs}.input_layernorm.weight"
      yield r.same(norm, f"{ours}/mixer_norm/scale")
      yield from mixer_rules(f"{theirs}.mamba", f"{ours}/mixer", mixer)
      continue
    shared = f"{theirs}.shared_transformer"
    if mixer.block in first:
      yield from _copies(shared, mixer)
    else:
      first[mixer.block] = shared
      yield from _shared(shared, mixer)
    home = first[mixer.block]
    yield from _adapters(home, f"{ours}/mixer", mixer, uses)
    if not model.tie_embeddings:
      for other in set(range(model.depth)) - {uses}:
        for rule in _adapters(home, "", mixer, other):
          yield r.ignored(*rule.theirs)
    yield from hybrid_rules(theirs, f"{ours}/mixer")
    decoder, inner = f"{theirs}.mamba_decoder", mixer.inner_module()
    yield from mixer_rules(
      f"{decoder}.mamba", f"{ours}/mixer/inner_mixer", inner
    )
    uses += 1


def hybrid_rules(theirs: str, ours: str) -> Iterator[r.Rule]:
  """What each hybrid layer has on its own, but for adapters and Mamba."""
  yield from r.dense(f"{theirs}.linear", f"{ours}/link")
  norm = f"{theirs}.mamba_decoder.input_layernorm.weight"
  yield r.same(norm, f"{ours}/inner_norm/scale")


def attention_rules(theirs: str, block: int) -> Iterator[r.Rule]:
  """The norms and the attention of a shared block."""
  ours = f"backbone/shared_block_{block}"
  yield r.same(f"{theirs}.input_layernorm.weight", f"{ours}_input_norm")
  yield r.same(f"{theirs}.pre_ff_layernorm.weight", f"{ours}_mlp_norm")
  for name in ("query", "key", "value", "output"):
    their = f"{theirs}.self_attn.{name[0]}_proj.weight"
    yield r.kernel(their, f"{ours}_{name}")


def _shared(theirs: str, mixer: SharedBlock) -> Iterator[r.Rule]:
  """The weights that all uses of a block share."""
  yield from attention_rules(theirs, mixer.block)
  mlp, ours = f"{theirs}.feed_forward", f"backbone/shared_block_{mixer.block}"
  sizes = (mixer.hidden or 0,) * 2
  for kind, end in (("weight", ""), ("bias", "_bias")):
    if kind == "bias" and not mixer.use_bias:
      continue
    parts = (f"{ours}_mlp_gate{end}", f"{ours}_mlp_value{end}")
    yield r.split(f"{mlp}.gate_up_proj.{kind}", parts, sizes)
    yield r.kernel(f"{mlp}.down_proj.{kind}", f"{ours}_mlp_output{end}")


def _copies(theirs: str, mixer: SharedBlock) -> Iterator[r.Rule]:
  """Copies of the shared weights, which some files have for each use."""
  for rule in _shared(theirs, mixer):
    yield r.ignored(*rule.theirs)


def _adapters(
  theirs: str, ours: str, mixer: SharedBlock, use: int
) -> Iterator[r.Rule]:
  """The adapters of one layer, which the list of the block numbers by use."""
  pairs = [(f"{theirs}.feed_forward.gate_up_proj", f"{ours}/mlp")]
  if mixer.attention_adapters:
    pairs += [
      (f"{theirs}.self_attn.linear_{name[0]}", f"{ours}/attention/{name}")
      for name in ("query", "key", "value")
    ]
  for their, our in pairs:
    for place, end in enumerate(("down", "up")):
      name = f"{their}_adapter_list.{use}.{place}.weight"
      yield r.kernel(name, f"{our}_{end}/kernel")


FAMILY = Family(
  name="zamba2",
  model_types=("zamba2",),
  architecture="Zamba2ForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba2, SharedBlock),
)
