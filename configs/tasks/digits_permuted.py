"""Permuted digits."""

import dataclasses

from configs.tasks import digits
from train.config import Config
from train.data.tasks import Classes, Digits


def get_config() -> Config:
  """The run of `digits.py` on pixels in one random order."""
  data = Classes(task=Digits(permuted=True))
  return dataclasses.replace(digits.get_config(), data=data)
