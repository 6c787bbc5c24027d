"""The families of the ops, for another engine or to change one function.

The families of `normalized_linear_attention` and `selective_scan` depend on the
arguments of a call, so they are not here. `householder_product` runs the family
of `delta_rule`.
"""

from jaxmodels.ops.delta_rule import FAMILY as DELTA_RULE
from jaxmodels.ops.dense import FAMILY as DENSE_RECURRENCE
from jaxmodels.ops.diagonal import FAMILY as DIAGONAL_RECURRENCE
from jaxmodels.ops.dplr import FAMILY as DPLR_RECURRENCE
from jaxmodels.ops.linear_attention import FAMILY as LINEAR_ATTENTION
from jaxmodels.ops.log_linear import FAMILY as LOG_LINEAR_ATTENTION

__all__ = [
  "DELTA_RULE",
  "DENSE_RECURRENCE",
  "DIAGONAL_RECURRENCE",
  "DPLR_RECURRENCE",
  "LINEAR_ATTENTION",
  "LOG_LINEAR_ATTENTION",
]


def __dir__() -> list[str]:
  return __all__
