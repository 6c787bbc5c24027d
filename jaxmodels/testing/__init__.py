"""Public checks: every form of an op or mixer against its definition."""

from jaxmodels.testing.cases import FORMS
from jaxmodels.testing.errors import relative_error, tolerance
from jaxmodels.testing.mixer import check_mixer
from jaxmodels.testing.op import check_op

__all__ = ["FORMS", "check_mixer", "check_op", "relative_error", "tolerance"]


def __dir__() -> list[str]:
  return __all__
