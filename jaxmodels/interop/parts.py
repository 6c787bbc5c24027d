"""Rules of layers that many families have, under the names most of them use."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxmodels.interop import rules as r
from jaxmodels.interop.family import embedding_rules, mixer_of
from jaxmodels.layers import SparseMoE
from jaxmodels.mixers import SoftmaxAttention
from jaxmodels.models import LanguageModel

__all__ = [
  "attention",
  "convolutions",
  "gated_mlp",
  "mixer_stack",
  "outside",
  "shortest",
  "sparse_moe",
]


def shortest(entries: Sequence[Any]) -> tuple[Any, ...]:
  """The shortest pattern whose whole repeats are the entries of all layers."""
  count = len(entries)
  for period in range(1, count + 1):
    if count % period == 0 and all(
      entry == entries[i % period] for i, entry in enumerate(entries)
    ):
      return tuple(entries[:period])
  return tuple(entries)


def attention(
  theirs: str, ours: str, mixer: SoftmaxAttention, output: str = "o_proj"
) -> Iterator[r.Rule]:
  """Softmax attention with `q_proj`, `k_proj`, `v_proj`, and norms if any."""
  for name in ("query", "key", "value"):
    yield from r.dense(
      f"{theirs}.{name[0]}_proj", f"{ours}/{name}", mixer.qkv_bias
    )
  if mixer.qk_norm:
    yield r.same(f"{theirs}.q_norm.weight", f"{ours}/query_norm/scale")
    yield r.same(f"{theirs}.k_norm.weight", f"{ours}/key_norm/scale")
  yield from r.dense(f"{theirs}.{output}", f"{ours}/output", mixer.output_bias)


def convolutions(
  theirs: Sequence[str],
  cuts: Sequence[int],
  ours: Sequence[str],
  sizes: Sequence[int],
) -> r.Rule:
  """Convolutions per channel whose channels are cut in different places.

  Args:
    theirs: Names of tensors [D, 1, W].
    cuts: The number of channels of each, when it is written; a folder that it
      is written like may have others.
    ours: Paths of kernels [W, D].
    sizes: The number of channels of each.
  """

  def read(tensors: r.Arrays) -> r.Arrays:
    x = np.concatenate(tensors)[:, 0].T
    return np.split(x, np.cumsum(sizes)[:-1], axis=1)

  def write(kernels: r.Arrays) -> r.Arrays:
    x = np.concatenate(kernels, axis=1).T[:, None]
    return np.split(x, np.cumsum(cuts)[:-1])

  return r.Rule(tuple(theirs), tuple(ours), read, write, recut=True)


def gated_mlp(
  theirs: str,
  ours: str,
  names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
  bias: bool = False,
) -> Iterator[r.Rule]:
  """A gated MLP, of which the names are those of gate, value and output."""
  for their, our in zip(names, ("gate", "value", "output"), strict=True):
    yield from r.dense(f"{theirs}.{their}", f"{ours}/{our}", bias)


def sparse_moe(
  theirs: str,
  ours: str,
  mlp: SparseMoE,
  names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
) -> Iterator[r.Rule]:
  """The router and the experts.

  Each expert has its own tensors, as transformers writes them; or all experts
  share `gate_up_proj` and `down_proj`, as in its memory and in some files.
  """
  yield r.kernel(f"{theirs}.gate.weight", f"{ours}/router/kernel")
  experts = [f"{theirs}.experts.{i}" for i in range(mlp.experts)]
  gate, value, output = (
    r.stacked([f"{e}.{their}.weight" for e in experts], f"{ours}/{our}")
    for their, our in zip(names, ("gate", "value", "output"), strict=True)
  )
  count = len(experts)
  yield r.Rule(
    gate.theirs + value.theirs,
    gate.ours + value.ours,
    lambda x: [*gate.read(x[:count]), *value.read(x[count:])],
    lambda x: [*gate.write(x[:1]), *value.write(x[1:])],
    instead=_fused(f"{theirs}.experts.gate_up_proj", gate.ours + value.ours),
  )
  fused = _fused(f"{theirs}.experts.down_proj", output.ours)
  yield dataclasses.replace(output, instead=fused)


def _fused(theirs: str, ours: Sequence[str]) -> r.Rule:
  """One tensor [experts, out, in] for kernels [experts, in, out]."""
  return r.Rule(
    (theirs,),
    tuple(ours),
    lambda x: np.split(np.swapaxes(x[0], 1, 2), len(ours), 2),
    lambda x: [np.swapaxes(np.concatenate(x, 2), 1, 2)],
  )


def mixer_stack(
  model: LanguageModel,
  mixer_rules: Callable[[str, str, Any], Iterable[r.Rule]],
  table: str,
) -> Iterator[r.Rule]:
  """A Mamba or Mamba-2 of mixers alone.

  Args:
    model: The model.
    mixer_rules: The rules of a mixer: of their name, our path, and the mixer.
    table: The name of the embeddings.
  """
  yield from embedding_rules(model, table)
  for i in range(model.depth):
    theirs, ours = f"backbone.layers.{i}", f"backbone/layer_{i}"
    yield r.same(f"{theirs}.norm.weight", f"{ours}/mixer_norm/scale")
    mixer = mixer_of(model, i)
    yield from mixer_rules(f"{theirs}.mixer", f"{ours}/mixer", mixer)
  yield r.same("backbone.norm_f.weight", "backbone/norm/scale")


def outside(
  model: LanguageModel,
  embedding: str = "model.embed_tokens",
  norm: str = "model.norm",
) -> Iterator[r.Rule]:
  """The embedding, the norm at the end of the stack, and the logits."""
  yield from embedding_rules(model, f"{embedding}.weight")
  yield r.same(f"{norm}.weight", "backbone/norm/scale")
