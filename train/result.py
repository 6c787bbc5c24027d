"""How a run ended."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Result:
  """How a run ended.

  Attributes:
    step: Updates done.
    params: The parameters for evaluation, as numpy arrays; None if a signal
      ended the run, and in processes other than the first.
    metrics: Validation metrics of the last state; empty if a signal ended
      the run.
    baselines: Results of simple methods on the same data, in bits.
    signal: The signal that ended the run, or None.
    collections: The model's variables other than parameters, by name, where
      there are `params`.
  """

  step: int
  params: Any
  metrics: Mapping[str, float]
  baselines: Mapping[str, float]
  signal: int | None
  collections: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {"params": self.params, **self.collections}
