"""Zamba: `ZambaForCausalLM` of transformers.

Glorioso et al. 2024, arXiv:2405.16712. A layer is Mamba in heads, or a hybrid:
Mamba behind the one shared transformer block, which has the name of the first
hybrid. If `tie_word_embeddings` is false, the implementation does not tie the
blocks either: each hybrid has one of its own. The rows of `in_proj` are those
of the input and the gate in turns.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import numpy as np

from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families import mamba as plain
from jaxmodels.interop.families import zamba2
from jaxmodels.interop.family import Family, embedding_rules, mixer_of
from jaxmodels.mixers import Mamba
from jaxmodels.models import LanguageModel
from jaxmodels.models.shared_block import SharedBlock

_NEUTRAL = (
  "num_logits_to_keep", "time_step_floor", "time_step_max", "time_step_min",
  "use_associative_scan", "use_mamba_kernels",
)  # fmt: skip


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 3712)
  depth = config.get("num_hidden_layers", 76)
  epsilon = config.get("rms_norm_eps", 1e-5)
  config.ignore(*_NEUTRAL)
  mamba: nn.FrozenDict = nn.FrozenDict(
    expand=config.get("mamba_expand", 2),
    heads=config.get("n_mamba_heads", 2),
    state_width=config.get("mamba_d_state", 16),
    step_rank=plain.read_rank(config, "mamba_dt_rank", width),
    kernel_width=config.get("mamba_d_conv", 4),
    use_bias=config.get("mamba_proj_bias", False),
    convolution_bias=config.get("mamba_conv_bias", True),
    activation=read_activation(config, "hidden_mamba_act", "silu"),
  )
  fields = zamba2.read_heads(config, width, heads=16)
  length = config.get("max_position_embeddings", 4096)
  hybrid = SharedBlock(
    width,
    inner=("mamba", mamba),
    attention=nn.FrozenDict(**fields, max_length=length, rotary_fraction=0.0),
    hidden=config.get("intermediate_size", 14848),
    activation=read_activation(config, "hidden_act", "gelu"),
    norm_epsilon=epsilon,
  )
  period = config.get("attn_layer_period", 6)
  offset = config.get("attn_layer_offset", 4)
  default = [i % period == offset for i in range(depth - 3)]
  kinds = zamba2.read_kinds(config, [False, False, True, *default])
  tied = config.get("tie_word_embeddings", True)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 32000),
    width=width,
    depth=len(kinds),
    **zamba2.layers(kinds, Mamba(width, **mamba), hybrid, 1 if tied else None),
    mlp="none",
    tie_embeddings=tied,
    norm_epsilon=epsilon,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  hybrids = [mixer for mixer in mixers if isinstance(mixer, SharedBlock)]
  mamba = mixers[0]
  if isinstance(mamba, SharedBlock):
    mamba = mamba.inner_module()
  if not isinstance(mamba, Mamba):
    raise FolderError("the mixer must be Mamba")
  return {
    "hidden_mamba_act": written_activation(mamba.activation),
    "hidden_size": model.width,
    "mamba_conv_bias": mamba.convolution_bias,
    "mamba_d_conv": mamba.kernel_width,
    "mamba_d_state": mamba.state_width,
    "mamba_dt_rank": plain.step_rank(mamba),
    "mamba_expand": mamba.expand,
    "mamba_proj_bias": mamba.use_bias,
    "n_mamba_heads": mamba.heads,
    **(zamba2.write_heads(hybrids[0]) if hybrids else {}),
    **zamba2.write_layers(model, mixers),
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from embedding_rules(model)
  yield r.same("model.final_layernorm.weight", "backbone/norm/scale")
  seen: set[int] = set()
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer = mixer_of(model, i)
    if not isinstance(mixer, SharedBlock):
      norm = f"{theirs}.input_layernorm.weight"
      yield r.same(norm, f"{ours}/mixer_norm/scale")
      yield from _mamba_rules(f"{theirs}.mamba", f"{ours}/mixer", mixer)
      continue
    for rule in _shared(f"{theirs}.shared_transf", mixer.block):
      yield r.ignored(*rule.theirs) if mixer.block in seen else rule
    seen.add(mixer.block)
    yield from zamba2.hybrid_rules(theirs, f"{ours}/mixer")
    yield from _mamba_rules(
      f"{theirs}.mamba_decoder.mamba",
      f"{ours}/mixer/inner_mixer",
      mixer.inner_module(),
    )


def _shared(theirs: str, block: int) -> Iterator[r.Rule]:
  """The weights of a shared block."""
  yield from zamba2.attention_rules(theirs, block)
  names = {"gate": "gate_proj", "value": "up_proj", "output": "down_proj"}
  for our, their in names.items():
    name = f"{theirs}.feed_forward.{their}.weight"
    yield r.kernel(name, f"backbone/shared_block_{block}_mlp_{our}")


def _mamba_rules(theirs: str, ours: str, mixer: Mamba) -> Iterator[r.Rule]:
  inner, heads = plain.inner_width(mixer), mixer.heads
  order = np.arange(2 * inner).reshape(inner, 2).T.ravel()
  yield from plain.input_rules(theirs, ours, mixer, order)
  yield _projections(f"{theirs}.x_proj_weight", ours, mixer)
  ends = _ends(mixer)
  ups = tuple(f"{ours}/step_up{end}/kernel" for end in ends)
  yield r.Rule(
    (f"{theirs}.dt_proj_weight",),
    ups,
    lambda x: [np.swapaxes(part, 0, 1) for part in x[0]],
    lambda x: [np.stack([np.swapaxes(part, 0, 1) for part in x])],
  )
  by_head = (heads, inner // heads)
  yield r.same(f"{theirs}.dt_proj_bias", f"{ours}/dt_bias", by_head)
  yield r.same(f"{theirs}.D", f"{ours}/D", by_head)
  yield r.mapped(
    f"{theirs}.A_log",
    f"{ours}/A_log",
    lambda x: x.reshape(inner, mixer.state_width),
    lambda x: x.reshape(*by_head, mixer.state_width),
  )
  yield from r.dense(f"{theirs}.out_proj", f"{ours}/output", mixer.use_bias)


def _ends(mixer: Mamba) -> list[str]:
  """The ends of the names of the parts of each head."""
  return [""] if mixer.heads == 1 else [f"_{i}" for i in range(mixer.heads)]


def _projections(theirs: str, ours: str, mixer: Mamba) -> r.Rule:
  """The projections to the step, B and C of all heads: one tensor [H, R, F]."""
  rank, states = plain.step_rank(mixer), mixer.state_width
  sizes = (rank, states, states)
  names = tuple(
    f"{ours}/{name}{end}/kernel"
    for end in _ends(mixer)
    for name in ("step_down", "B", "C")
  )
  one = r.split(theirs, ("step_down", "B", "C"), sizes)

  def read(tensors: r.Arrays) -> r.Arrays:
    return [part for head in tensors[0] for part in one.read([head])]

  def write(parameters: r.Arrays) -> r.Arrays:
    heads = [parameters[i : i + 3] for i in range(0, len(parameters), 3)]
    return [np.stack([one.write(head)[0] for head in heads])]

  return r.Rule((theirs,), names, read, write)


FAMILY = Family(
  name="zamba",
  model_types=("zamba",),
  architecture="ZambaForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba, SharedBlock),
)
