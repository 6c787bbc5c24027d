"""RWKV-4: `RwkvForCausalLM` of transformers.

Peng et al. 2023, arXiv:2305.13048. At inference transformers halves the stream
after every `rescale_every` layers, and what later layers write to it. The norms
then differ only by their epsilon. Our model has these factors too.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import (
  Family,
  embedding_rules,
  mixer_of,
  mlp_of,
)
from jaxmodels.layers import RWKVChannelMix
from jaxmodels.mixers import RWKV4
from jaxmodels.models import LanguageModel

# The norm at the end has this epsilon, whatever the config says.
_LAST_EPSILON = 1e-5


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  depth = config.get("num_hidden_layers", 32)
  config.ignore("context_length", "max_position_embeddings")
  inner = config.get("attention_hidden_size")
  hidden = config.get("intermediate_size")
  skip, residual = _scales(config.get("rescale_every", 6), depth)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 50_277),
    width=width,
    depth=depth,
    mixers=(RWKV4(width, inner_width=width if inner is None else inner),),
    mlp=RWKVChannelMix(
      width,
      hidden=4 * width if hidden is None else hidden,
      receptance=True,
      own_share=True,
    ),
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm="layer",
    norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
    final_norm_epsilon=_LAST_EPSILON,
    input_norm=True,
    skip_scale=skip,
    residual_scale=residual,
  )


def _scales(every: int, depth: int) -> tuple[Any, Any]:
  """The factors on the stream, and on what layers write to it."""
  if every <= 0 or depth < every:
    return 1.0, 1.0
  halves = [0.5 if (i + 1) % every == 0 else 1.0 for i in range(depth)]
  skip = tuple((1.0, half) for half in halves)
  residual = tuple(
    (0.5 ** (i // every), 0.5 ** (i // every) * half)
    for i, half in enumerate(halves)
  )
  return skip, residual


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  skip = model.skip_scale
  pairs = skip if isinstance(skip, tuple) else ()
  halved = [i + 1 for i, (_, own) in enumerate(pairs) if own != 1]
  return {
    "attention_hidden_size": mixer_of(model, 0).inner_width,
    "hidden_size": model.width,
    "intermediate_size": mlp_of(model, 0).hidden,
    "layer_norm_epsilon": model.norm_epsilon,
    "num_hidden_layers": model.depth,
    "rescale_every": halved[0] if halved else 0,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from embedding_rules(model, "rwkv.embeddings.weight", "head.weight")
  yield from _norm("rwkv.blocks.0.pre_ln", "backbone/input_norm")
  for i in range(model.depth):
    theirs, ours = f"rwkv.blocks.{i}", f"backbone/layer_{i}"
    yield from _norm(f"{theirs}.ln1", f"{ours}/mixer_norm")
    yield from _norm(f"{theirs}.ln2", f"{ours}/mlp_norm")
    mixer, mlp = f"{theirs}.attention", f"{theirs}.feed_forward"
    yield r.same(f"{mixer}.time_decay", f"{ours}/mixer/decay")
    yield r.same(f"{mixer}.time_first", f"{ours}/mixer/bonus")
    for name in ("key", "value", "receptance"):
      yield from _mixed(mixer, f"{ours}/mixer", name, model.width)
    yield from r.dense(f"{mixer}.output", f"{ours}/mixer/output")
    for name in ("key", "receptance"):
      yield from _mixed(mlp, f"{ours}/mlp", name, model.width)
    yield from r.dense(f"{mlp}.value", f"{ours}/mlp/output")
  yield from _norm("rwkv.ln_out", "backbone/norm")


def _mixed(theirs: str, ours: str, name: str, width: int) -> Iterator[r.Rule]:
  """A linear map and the share of the token that it reads."""
  shape = (1, 1, width)
  yield r.same(f"{theirs}.time_mix_{name}", f"{ours}/mix_{name}", shape)
  yield from r.dense(f"{theirs}.{name}", f"{ours}/{name}")


def _norm(theirs: str, ours: str) -> Iterator[r.Rule]:
  yield r.same(f"{theirs}.weight", f"{ours}/scale")
  yield r.same(f"{theirs}.bias", f"{ours}/bias")


FAMILY = Family(
  name="rwkv4",
  model_types=("rwkv",),
  architecture="RwkvForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(RWKV4,),
)
