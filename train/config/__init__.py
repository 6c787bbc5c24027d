"""The config of a run: its fields, its command line, its saved form."""

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
