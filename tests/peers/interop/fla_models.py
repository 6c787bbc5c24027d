"""Models of flash-linear-attention (fla) on a CPU, by its own kernels.

Triton interprets them with NumPy (`tests/peers/conftest.py`). It cannot time
them, so the first config of each is taken.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from tests.peers.compare import load
from tests.peers.interop.parity import at_least, check_family

__all__ = ["SMALL", "check_fla", "model_of"]

SMALL = {
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "vocab_size": 50,
}


def model_of(name: str, **config: Any) -> Any:
  """A small model of fla, such as "DeltaNet", with random weights."""
  load("torch").manual_seed(0)
  models = load("fla.models")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    made = getattr(models, f"{name}Config")(**config)
    return getattr(models, f"{name}ForCausalLM")(made)


def check_fla(theirs: Any, folder: Any) -> None:
  """`check_family` for a model of fla."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    check_family(theirs, folder, logits=_logits)


def _logits(model: Any, tokens: np.ndarray, dtype: str) -> np.ndarray:
  torch = load("torch")
  model = copy.deepcopy(model).to(getattr(torch, dtype)).eval()
  with torch.no_grad(), _interpreted(dtype):
    result = model(torch.tensor(tokens), use_cache=False)
  return result.logits.double().numpy()


@contextlib.contextmanager
def _interpreted(dtype: str) -> Iterator[None]:
  """Kernels with their first config; in float64 where they ask for float32."""
  triton = load("triton.language")
  tuner = load("triton.runtime.autotuner").Autotuner

  def run(self, *args, **options):
    return self.fn.run(*args, **{**options, **self.configs[0].all_kwargs()})

  wide = triton.float32 if dtype == "float32" else triton.float64
  with (
    at_least(dtype),
    mock.patch.object(tuner, "run", run),
    mock.patch.object(triton, "float32", wide),
  ):
    yield
