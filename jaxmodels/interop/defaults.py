"""The sizes that None stands for in the fields of mixers and channel mixers."""

from collections.abc import Callable
from typing import Any

from jaxmodels.layers import MLP, GatedMLP, SparseMoE
from jaxmodels.mixers import GLA, DeltaNet, RetNet, SoftmaxAttention

__all__ = ["explicit"]


def explicit(module: Any) -> Any:
  """The same module, with sizes in place of None.

  A config states every size, so a model that was built with defaults is
  compared and written with the sizes that they stand for. Classes without such
  fields stay as they are.
  """
  for kind, sizes in _SIZES.items():
    if issubclass(type(module), kind):
      missing = {
        name: size
        for name, size in sizes(module).items()
        if getattr(module, name) is None
      }
      return module.clone(parent=None, **missing) if missing else module
  return module


def _delta_net(mixer: DeltaNet) -> dict[str, int]:
  own = mixer.width // mixer.heads
  sizes = {"key_heads": mixer.heads, "key_width": own, "value_width": own}
  if mixer.decay == "key":
    sizes["gate_rank"] = mixer.key_width or own
  return sizes


def _softmax(mixer: SoftmaxAttention) -> dict[str, int]:
  return {"kv_heads": mixer.heads, "head_width": mixer.width // mixer.heads}


def _gla(mixer: GLA) -> dict[str, int]:
  own = mixer.width // mixer.heads
  return {"kv_heads": mixer.heads, "key_width": own // 2, "value_width": own}


def _retnet(mixer: RetNet) -> dict[str, int]:
  own = mixer.width // mixer.heads
  return {"kv_heads": mixer.heads, "key_width": own, "value_width": 2 * own}


def _gated(mlp: GatedMLP | SparseMoE) -> dict[str, int]:
  return {"hidden": mlp.gated_width()}


def _plain(mlp: MLP) -> dict[str, int]:
  return {"hidden": 4 * mlp.width}


_SIZES: dict[type, Callable[[Any], dict[str, int]]] = {
  DeltaNet: _delta_net,
  GLA: _gla,
  GatedMLP: _gated,
  MLP: _plain,
  RetNet: _retnet,
  SoftmaxAttention: _softmax,
  SparseMoE: _gated,
}
