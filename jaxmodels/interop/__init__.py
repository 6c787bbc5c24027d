"""Other people's checkpoints in and out: see `load`, `save` and `compare`."""

from jaxmodels.interop.checkpoint import load, read_model, save
from jaxmodels.interop.compare import Drift, activations, compare
from jaxmodels.interop.config import FolderError
from jaxmodels.interop.families import FAMILIES

__all__ = [
  "FAMILIES",
  "Drift",
  "FolderError",
  "activations",
  "compare",
  "load",
  "read_model",
  "save",
]


def __dir__() -> list[str]:
  return __all__
