"""What a checkpoint holds."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """One checkpoint.

  Attributes:
    step: Number of updates done.
    state: The state as nested dictionaries of arrays; None if it was not read.
    position: Number of examples consumed by all processes.
    config: The config, from `serialize.to_json`.
    metrics: Validation metrics of this state; empty if it was saved between two
      validations.
    evaluated: Whether the validation due at this step was done.
  """

  step: int
  state: Any
  position: int
  config: Any
  metrics: Mapping[str, float]
  evaluated: bool
