"""DeltaNet: `DeltaNetForCausalLM` of flash-linear-attention.

Yang et al. 2024, arXiv:2406.06484.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import fla
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family
from jaxmodels.mixers import DeltaNet, SoftmaxAttention
from jaxmodels.models import LanguageModel

# Their names of activations, and ours.
_ACTIVATIONS = {
  "silu": "silu",
  "relu": "relu",
  "elu": "elu_plus_one",
  "identity": "identity",
}


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 2048)
  heads = config.get("num_heads", 16)
  config.expect("qk_activation", *_ACTIVATIONS)
  config.expect("qk_norm", "l2", "sum")
  # The layer of fla ignores this key: it always has the norm.
  config.ignore("use_output_norm")
  mixer = DeltaNet(
    width,
    heads=heads,
    key_width=round(width * config.get("expand_k", 1.0)) // heads,
    value_width=round(width * config.get("expand_v", 1.0)) // heads,
    negative_eigenvalues=config.get("allow_neg_eigval", False),
    write_strength=config.get("use_beta", True),
    qk_activation=_ACTIVATIONS[config.get("qk_activation", "silu")],
    qk_norm=config.get("qk_norm", "l2"),
    output_gate=config.get("use_gate", False),
    kernel_width=kernel_width(config),
    norm_epsilon=config.get("norm_eps", 1e-6),
  )
  return fla.read_stack(config, mixer)


def kernel_width(config: Config) -> int | None:
  """W of the convolutions, or None if there are none."""
  width = config.get("conv_size", 4)
  return width if config.get("use_short_conv", True) else None


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return fla.write_stack(model, _write_mixer)


def _write_mixer(mixer: DeltaNet) -> dict[str, Any]:
  key_width = mixer.key_width or mixer.width // mixer.heads
  value_width = mixer.value_width or mixer.width // mixer.heads
  theirs = {our: their for their, our in _ACTIVATIONS.items()}
  return {
    "expand_k": key_width * mixer.heads / mixer.width,
    "expand_v": value_width * mixer.heads / mixer.width,
    "num_heads": mixer.heads,
    "qk_activation": theirs[mixer.qk_activation],
    "qk_norm": mixer.qk_norm,
    "use_beta": mixer.write_strength,
    "use_gate": mixer.output_gate,
    **write_shared(mixer),
  }


def write_shared(mixer: DeltaNet) -> dict[str, Any]:
  """The keys that all delta rules of fla have."""
  return {
    "allow_neg_eigval": mixer.negative_eigenvalues,
    "conv_size": mixer.kernel_width or 4,
    "use_short_conv": mixer.kernel_width is not None,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return fla.stack_rules(model, mixer_rules)


def mixer_rules(theirs: str, ours: str, mixer: DeltaNet) -> Iterator[r.Rule]:
  """The rules of a delta rule with separate projections."""
  for name in ("query", "key", "value"):
    letter = name[0]
    yield from r.dense(f"{theirs}.{letter}_proj", f"{ours}/{name}")
    if mixer.kernel_width is not None:
      yield from r.convolution(
        f"{theirs}.{letter}_conv1d", f"{ours}/{name}_convolution"
      )
  if mixer.write_strength:
    yield from r.dense(f"{theirs}.b_proj", f"{ours}/beta")
  if mixer.output_gate and mixer.output_gate_rank is None:
    yield from r.dense(f"{theirs}.g_proj", f"{ours}/output_gate")
  yield r.same(f"{theirs}.o_norm.weight", f"{ours}/norm/scale")
  yield from r.dense(f"{theirs}.o_proj", f"{ours}/output")


FAMILY = Family(
  name="delta_net",
  model_types=("delta_net",),
  architecture="DeltaNetForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(DeltaNet, SoftmaxAttention),
  rename=((r"attn\.norm\.weight$", "attn.o_norm.weight"),),
)
