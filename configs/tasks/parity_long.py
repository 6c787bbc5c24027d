"""The training of `parity.py`, measured at 1,000 bits."""

import dataclasses

from configs.tasks import parity
from train.config import Config


def get_config() -> Config:
  """25 times the length of training."""
  config = parity.get_config()
  data = dataclasses.replace(config.data, validation_length=1000)
  return dataclasses.replace(config, data=data, eval_every=400)
