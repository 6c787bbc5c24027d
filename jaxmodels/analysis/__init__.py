"""Facts about compiled programs: flops, collectives, launches, cycles."""

from jaxmodels.analysis import chips, collectives, cycles, flops, hlo, launches

__all__ = ["chips", "collectives", "cycles", "flops", "hlo", "launches"]


def __dir__() -> list[str]:
  return __all__
