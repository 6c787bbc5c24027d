"""Qwen3-Next: `Qwen3NextForCausalLM` of transformers."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmodels.interop import qwen
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family, mlp_of
from jaxmodels.layers import GatedMLP, SparseMoE
from jaxmodels.mixers import GatedDeltaNet, SoftmaxAttention
from jaxmodels.models import LanguageModel

_DEFAULTS = {
  "hidden_size": 2048,
  "num_key_value_heads": 2,
  "vocab_size": 151_936,
}


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", _DEFAULTS["hidden_size"])
  depth = config.get("num_hidden_layers", 48)
  dense = qwen.read_dense(config, width, 5632)
  sparse = qwen.read_experts(config, width, 512, 10)
  every = config.get("decoder_sparse_step", 1)
  alone = config.get("mlp_only_layers") or []
  return qwen.read_stack(
    config,
    [
      dense if i in alone or (i + 1) % every or not sparse.experts else sparse
      for i in range(depth)
    ],
    **_DEFAULTS,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mlps = [mlp_of(model, i) for i in range(model.depth)]
  dense = [i for i, mlp in enumerate(mlps) if isinstance(mlp, GatedMLP)]
  values = qwen.write_stack(model) | {
    "decoder_sparse_step": 1,
    "mlp_only_layers": dense,
  }
  for mlp in mlps:
    values |= qwen.write_dense(mlp) | qwen.write_experts(mlp)
    if isinstance(mlp, SparseMoE):
      values["norm_topk_prob"] = mlp.normalize
  return values


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return qwen.stack_rules(model, _linear_rules)


def _linear_rules(
  theirs: str, ours: str, mixer: GatedDeltaNet
) -> Iterator[r.Rule]:
  """The rules of the input projections of Gated DeltaNet.

  The rows of one key head are adjacent: its query, its key, and the values and
  gates of its value heads; in the other tensor beta and decay of these.
  """
  keys, _, values = qwen.linear_parts(mixer)
  heads = mixer.key_heads or mixer.heads
  names = ("query", "key", "value", "output_gate")
  yield _interleaved(
    f"{theirs}.in_proj_qkvz.weight",
    [f"{ours}/{name}/kernel" for name in names],
    (keys, keys, values, values),
    heads,
  )
  yield _interleaved(
    f"{theirs}.in_proj_ba.weight",
    [f"{ours}/{name}/kernel" for name in ("beta", "decay")],
    (mixer.heads, mixer.heads),
    heads,
  )


def _interleaved(
  theirs: str, ours: list[str], sizes: tuple[int, ...], heads: int
) -> r.Rule:
  """Rows of several parameters, of each of `heads` heads in turn."""
  rows = np.arange(sum(sizes)).reshape(heads, -1)
  cuts = np.cumsum([size // heads for size in sizes])[:-1]
  order = np.concatenate([part.ravel() for part in np.split(rows, cuts, 1)])
  return r.split(theirs, ours, sizes, order)


FAMILY = Family(
  name="qwen3_next",
  model_types=("qwen3_next",),
  architecture="Qwen3NextForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GatedDeltaNet, SoftmaxAttention),
  skip=qwen.SKIP,
)
