"""Facts about compiled programs: flops, collectives, cycles, chips."""

from jaxmodels.analysis import chips, collectives, cycles, flops, hlo

__all__ = ["chips", "collectives", "cycles", "flops", "hlo"]


def __dir__() -> list[str]:
  return __all__
