"""The config of a run: its fields, its command line, its saved form."""

from train.config.groups import STATE_SPACE, Group
from train.config.optimizer_base import Optimizer
from train.config.optimizers import (
  SGD,
  Adafactor,
  AdamW,
  Lion,
  Muon,
  ScheduleFreeAdamW,
)
from train.config.schedules import (
  Constant,
  Cosine,
  InverseSquareRoot,
  Linear,
  Schedule,
  WarmupStableDecay,
)
from train.config.schema import (
  MOST,
  MOST_SEED,
  Config,
  Mesh,
  Sample,
  check_data,
  check_sample,
  check_types,
  idle_line,
  layout,
  validate,
)
from train.config.start import Pretrained

__all__ = [
  "MOST",
  "MOST_SEED",
  "SGD",
  "STATE_SPACE",
  "Adafactor",
  "AdamW",
  "Config",
  "Constant",
  "Cosine",
  "Group",
  "InverseSquareRoot",
  "Linear",
  "Lion",
  "Mesh",
  "Muon",
  "Optimizer",
  "Pretrained",
  "Sample",
  "Schedule",
  "ScheduleFreeAdamW",
  "WarmupStableDecay",
  "check_data",
  "check_sample",
  "check_types",
  "idle_line",
  "layout",
  "validate",
]
