"""Linear-time sequence models in JAX: one recurrence, every form.

  - `ops`: recurrences, arrays in and arrays out.
  - `layers`: Flax modules that mixers share.
  - `mixers`: sequence mixers, parameters around an op each.
  - `models`: whole networks.
  - `interop`: checkpoints of other implementations, in and out.
  - `testing`: proofs of ops and mixers.
  - `analysis`: facts about compiled programs.

Each is imported when it is first used: `import jaxmodels` is quick, and whoever
uses `jaxmodels.ops` alone needs no Flax.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from jaxmodels import (
    analysis,
    interop,
    layers,
    mixers,
    models,
    ops,
    testing,
  )

__version__ = "0.1.0"
__all__ = [
  "__version__",
  "analysis",
  "interop",
  "layers",
  "mixers",
  "models",
  "ops",
  "testing",
]


def __getattr__(name: str) -> ModuleType:
  if name in __all__:
    return importlib.import_module(f"jaxmodels.{name}")
  raise AttributeError(f"module 'jaxmodels' has no attribute {name!r}")


def __dir__() -> list[str]:
  return __all__
