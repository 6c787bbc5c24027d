"""What one run is: its fields, its command line, and its saved form."""

from train.config.schema import (
  BEST_METRICS,
  MOST,
  MOST_SEED,
  STRATEGIES,
  Config,
  Mesh,
  Optimizer,
  Sample,
  check_sample,
  check_types,
  idle_line,
  layout,
  validate,
)

__all__ = [
  "BEST_METRICS",
  "MOST",
  "MOST_SEED",
  "STRATEGIES",
  "Config",
  "Mesh",
  "Optimizer",
  "Sample",
  "check_sample",
  "check_types",
  "idle_line",
  "layout",
  "validate",
]
