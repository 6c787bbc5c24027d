"""Linear regression in context."""

import dataclasses

from configs.tasks import regression
from train.config import Config


def get_config() -> Config:
  """The config `regression`, trained five times as long."""
  config = regression.get_config()
  mesa = ("mesa", {"heads": 2, "lower_bound": 0.05})
  model = config.model.clone(mixers=(mesa,))
  return dataclasses.replace(
    config, model=model, steps=3000, eval_every=500, checkpoint_every=1000
  )
