"""OLMo-Hybrid: `OlmoHybridForCausalLM` of transformers.

Layers of Gated DeltaNet have a norm before each of their parts, and layers of
softmax attention have one after it. transformers writes the convolutions of
query, key and value as three tensors of equal size, whatever the widths. Other
files cut them where query, key and value end; both are read.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import parts, qwen
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family, mixer_of, mlp_of
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.mixers import GatedDeltaNet, SoftmaxAttention
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 3840)
  depth = config.get("num_hidden_layers", 32)
  kinds = _layer_kinds(config, depth)
  linear, softmax = _read_linear(config, width), _read_attention(config, width)
  full = [kind == "full_attention" for kind in kinds]
  return LanguageModel(
    vocab_size=config.get("vocab_size", 100_352),
    width=width,
    depth=depth,
    mixers=parts.shortest([softmax if x else linear for x in full]),
    mlp=qwen.read_dense(config, width, 11_008),
    layout=parts.shortest(["res_post_norm" if x else "pre_norm" for x in full]),
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=config.get("rms_norm_eps", 1e-6),
  )


def _layer_kinds(config: Config, depth: int) -> list[str]:
  kinds = qwen.layer_kinds(config, depth)
  if config.get("layer_types") is None and "full_attention" not in kinds:
    kinds[-1] = "full_attention"
  return kinds


def _read_linear(config: Config, width: int) -> GatedDeltaNet:
  config.ignore("linear_a_log_min", "linear_a_log_max", "linear_dt_min")
  config.ignore("linear_dt_max", "linear_dt_init_floor")
  heads = config.get("num_attention_heads", 30)

  def size(key: str, default: int) -> int:
    value = config.get(key)
    return default if value is None else value

  key_heads = size("linear_num_key_heads", heads)
  key_width = size("linear_key_head_dim", int(0.75 * width / key_heads))
  return GatedDeltaNet(
    width,
    heads=size("linear_num_value_heads", heads),
    key_heads=key_heads,
    key_width=key_width,
    value_width=size("linear_value_head_dim", 2 * key_width),
    kernel_width=config.get("linear_conv_kernel_dim", 4),
    negative_eigenvalues=config.get("linear_allow_neg_eigval", True),
    norm_epsilon=1e-5,
    **qwen.activations(config),
  )


def _read_attention(config: Config, width: int) -> SoftmaxAttention:
  heads = config.get("num_attention_heads", 30)
  head_width = config.get("head_dim") or width // heads
  bias = config.get("attention_bias", False)
  length = config.get("max_position_embeddings", 65_536)
  return SoftmaxAttention(
    width,
    heads=heads,
    kv_heads=config.get("num_key_value_heads") or heads,
    head_width=head_width,
    max_length=length,
    qk_norm="whole",
    qkv_bias=bias,
    output_bias=bias,
    norm_epsilon=config.get("rms_norm_eps", 1e-6),
    **read_rotary(config, head_width, length),
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  softmax = next((m for m in mixers if isinstance(m, SoftmaxAttention)), None)
  linear = next((m for m in mixers if isinstance(m, GatedDeltaNet)), None)
  values = qwen.write_stack(model) | qwen.write_dense(mlp_of(model, 0))
  if linear is not None:
    values["linear_allow_neg_eigval"] = linear.negative_eigenvalues
  if softmax is not None:
    values["rope_parameters"] = write_rotary(softmax)
    if softmax.head_width == model.width // softmax.heads:
      del values["head_dim"]
  return values


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from parts.outside(model)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer = mixer_of(model, i)
    if isinstance(mixer, SoftmaxAttention):
      norms = "feedforward_layer_norm", "post_feedforward_layernorm"
      yield from parts.attention(f"{theirs}.self_attn", f"{ours}/mixer", mixer)
    else:
      norms = "attention_layer_norm", "feedforward_layer_norm"
      yield from _linear_rules(f"{theirs}.linear_attn", f"{ours}/mixer", mixer)
    for their, our in zip(norms, ("mixer_norm", "mlp_norm"), strict=True):
      yield r.same(f"{theirs}.{their}.weight", f"{ours}/{our}/scale")
    yield from parts.gated_mlp(f"{theirs}.mlp", f"{ours}/mlp")


def _linear_rules(
  theirs: str, ours: str, mixer: GatedDeltaNet
) -> Iterator[r.Rule]:
  for their, our in (
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("b_proj", "beta"),
    ("a_proj", "decay"),
    ("g_proj", "output_gate"),
    ("o_proj", "output"),
  ):
    yield from r.dense(f"{theirs}.{their}", f"{ours}/{our}")
  names = [f"{theirs}.{letter}_conv1d.weight" for letter in "qkv"]
  total = sum(qwen.linear_parts(mixer))
  third = -(-total // 3)
  cuts = third, third, total - 2 * third
  yield qwen.convolution(ours, mixer, names, cuts)
  for name in ("A_log", "dt_bias"):
    yield r.same(f"{theirs}.{name}", f"{ours}/{name}")
  yield r.same(f"{theirs}.o_norm.weight", f"{ours}/norm/scale")


FAMILY = Family(
  name="olmo_hybrid",
  model_types=("olmo_hybrid",),
  architecture="OlmoHybridForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GatedDeltaNet, SoftmaxAttention),
  # The names in the memory of transformers, and those of published files.
  rename=(
    (r"\.input_layernorm\.", ".attention_layer_norm."),
    (r"\.post_attention_layernorm\.", ".feedforward_layer_norm."),
  ),
)
