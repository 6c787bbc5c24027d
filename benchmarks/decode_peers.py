"""Mamba and Mamba-2 of Hugging Face transformers, and their weights as ours."""

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.models import LanguageModel

__all__ = ["SHAPES", "Peer", "clock"]


class _Clock:
  """The clock of all measurements, in seconds."""

  now: Callable[[], float] = staticmethod(time.perf_counter)


clock = _Clock()


def _model(mixer: str, vocab_size: int) -> LanguageModel:
  return LanguageModel(
    vocab_size=vocab_size,
    width=768,
    depth=24,
    mixers=(mixer,),
    mlp="none",
    norm_epsilon=1e-5,
    mixer_options={"mamba2": {"norm_epsilon": 1e-5}},
  )


# The sizes of state-spaces/mamba-130m and state-spaces/mamba2-130m.
SHAPES = {
  "mamba": _model("mamba", 50280),
  "mamba2": _model("mamba2", 50288),
}


class Peer:
  """A model with random weights."""

  def __init__(self, name: str, batch: int) -> None:
    """Makes the model.

    Args:
      name: A name in `SHAPES`.
      batch: The number of rows.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    shape = SHAPES[name]
    common = {
      "vocab_size": shape.vocab_size,
      "hidden_size": shape.width,
      "num_hidden_layers": shape.depth,
      "tie_word_embeddings": True,
      "eos_token_id": None,
    }
    if name == "mamba":
      config = transformers.MambaConfig(**common)
      self._model: Any = transformers.MambaForCausalLM(config)
    else:
      # It pads prompts to whole chunks, and steps do not use them: short chunks
      # spare it 255 tokens of padding per prompt of one token.
      config = transformers.Mamba2Config(
        **common,
        num_heads=24,
        head_dim=64,
        state_size=128,
        n_groups=1,
        chunk_size=16,
      )
      self._model = transformers.Mamba2ForCausalLM(config)
    self._model.eval()
    self._torch, self._name = torch, name
    self._prompt = torch.ones((batch, 1), dtype=torch.long)
    with torch.inference_mode():
      out = self._model(self._prompt, use_cache=True)
    self._cache, self._token = out.cache_params, out.logits[:, -1:].argmax(-1)
    self.generate(2)

  def loop(self, tokens: int, threads: int) -> float:
    """The seconds per token of a loop over the model's own step."""
    self._torch.set_num_threads(threads)
    start = clock.now()
    with self._torch.inference_mode():
      for _ in range(tokens):
        out = self._model(self._token, cache_params=self._cache, use_cache=True)
        self._token = out.logits[:, -1:].argmax(-1)
    return (clock.now() - start) / tokens

  def generate(self, tokens: int) -> float:
    """The seconds per token of its `generate`, with its cache."""
    self._torch.set_num_threads(2)
    start = clock.now()
    with self._torch.inference_mode():
      self._model.generate(
        self._prompt,
        attention_mask=self._torch.ones_like(self._prompt),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
      )
    return (clock.now() - start) / tokens

  def logits(self, tokens: np.ndarray) -> np.ndarray:
    """The logits [B, L, V] of tokens [B, L]."""
    with self._torch.inference_mode():
      return self._model(self._torch.as_tensor(tokens)).logits.numpy()

  def variables(self) -> Any:
    """The weights as the variables of our model."""
    found = {k: v.numpy() for k, v in self._model.state_dict().items()}
    layer = _mamba if self._name == "mamba" else _mamba2
    backbone = {"norm": {"scale": found["backbone.norm_f.weight"]}}
    for i in range(SHAPES[self._name].depth):
      start = f"backbone.layers.{i}."
      own = {
        name.removeprefix(start + "mixer."): array
        for name, array in found.items()
        if name.startswith(start)
      }
      backbone[f"layer_{i}"] = {
        "mixer": layer(own),
        "mixer_norm": {"scale": found[start + "norm.weight"]},
      }
    table = {"table": found["backbone.embeddings.weight"]}
    params = {"backbone": backbone, "embedding": table}
    return {"params": _arrays(params)}


def _arrays(tree: Any) -> Any:
  if isinstance(tree, dict):
    return {name: _arrays(value) for name, value in tree.items()}
  return jnp.array(np.ascontiguousarray(tree))


def _kernel(weight: np.ndarray) -> dict[str, np.ndarray]:
  return {"kernel": weight.T}


def _common(own: dict[str, np.ndarray]) -> dict[str, Any]:
  convolution = {
    "kernel": own["conv1d.weight"][:, 0].T,
    "bias": own["conv1d.bias"],
  }
  return {
    "A_log": own["A_log"],
    "D": own["D"],
    "convolution": convolution,
    "output": _kernel(own["out_proj.weight"]),
  }


def _mamba(own: dict[str, np.ndarray]) -> dict[str, Any]:
  inner, width = own["A_log"].shape
  u, z = np.split(own["in_proj.weight"], [inner])
  rank = own["x_proj.weight"].shape[0] - 2 * width
  down, b, c = np.split(own["x_proj.weight"], [rank, rank + width])
  return {
    **_common(own),
    "input": _kernel(u),
    "gate": _kernel(z),
    "step_down": _kernel(down),
    "B": _kernel(b),
    "C": _kernel(c),
    "step_up": _kernel(own["dt_proj.weight"]),
    "dt_bias": own["dt_proj.bias"],
  }


def _mamba2(own: dict[str, np.ndarray]) -> dict[str, Any]:
  inner = own["norm.weight"].size
  heads = own["A_log"].size
  z, u, step = np.split(own["in_proj.weight"], [inner, -heads])
  return {
    **_common(own),
    "gate": _kernel(z),
    "input": _kernel(u),
    "step": _kernel(step),
    "dt_bias": own["dt_bias"],
    "norm": {"scale": own["norm.weight"]},
  }
