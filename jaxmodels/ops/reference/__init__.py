"""Step-by-step definitions of all ops, with which every test compares."""

from jaxmodels.ops.reference.kalman import kalman_filter, kalman_smoother
from jaxmodels.ops.reference.local import attention, causal_convolution
from jaxmodels.ops.reference.memories import (
  log_linear_attention,
  mesa,
  ttt_linear,
)
from jaxmodels.ops.reference.recurrences import (
  bidirectional,
  delta_rule,
  dense_recurrence,
  diagonal_recurrence,
  dplr_recurrence,
  householder_product,
  linear_attention,
  long_convolution,
  normalized_linear_attention,
  selective_scan,
  signature,
  state_space,
  step_through,
)

__all__ = [
  "attention",
  "bidirectional",
  "causal_convolution",
  "delta_rule",
  "dense_recurrence",
  "diagonal_recurrence",
  "dplr_recurrence",
  "householder_product",
  "kalman_filter",
  "kalman_smoother",
  "linear_attention",
  "log_linear_attention",
  "long_convolution",
  "mesa",
  "normalized_linear_attention",
  "selective_scan",
  "signature",
  "state_space",
  "step_through",
  "ttt_linear",
]
