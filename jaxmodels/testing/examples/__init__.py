"""Records of ops and mixers: one each, for tests, benchmarks and tables.

`OPS` and `MIXERS` name them. A record holds the op or mixer, its
definition, a function that draws its arguments, and its flops.
"""

from jaxmodels.testing.examples import draws
from jaxmodels.testing.examples.example import MixerExample, OpExample, Sizes
from jaxmodels.testing.examples.mixers import MIXERS
from jaxmodels.testing.examples.ops import OPS

__all__ = [
  "MIXERS",
  "OPS",
  "MixerExample",
  "OpExample",
  "Sizes",
  "draws",
]


def __dir__() -> list[str]:
  return __all__
