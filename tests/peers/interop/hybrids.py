"""Hybrid models of transformers with delta rules."""

import sys
from collections.abc import Mapping
from typing import Any

from tests.peers.compare import load

__all__ = ["hybrid"]

_ABSENT = object()


def hybrid(name: str, options: Mapping[str, Any], config: str = "") -> Any:
  """A model with random weights, such as "Qwen3Next".

  Args:
    name: The class, without "ForCausalLM".
    options: The values of its config.
    config: The class of the config, without "Config", if it has another name.
  """
  transformers = load("transformers")
  # If fla is there, transformers takes its kernels, which need a GPU.
  fla = sys.modules.get("fla", _ABSENT)
  sys.modules["fla"] = None  # type: ignore[assignment]
  try:
    kind = getattr(transformers, f"{name}ForCausalLM")
  finally:
    del sys.modules["fla"]
    if fla is not _ABSENT:
      sys.modules["fla"] = fla  # type: ignore[assignment]
  made = getattr(transformers, f"{config or name}Config")(**options)
  # Other ways to multiply experts have no products in float64.
  made._experts_implementation = "eager"
  return kind(made)
