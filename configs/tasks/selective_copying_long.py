"""Copying 8 symbols that lie at random places in 64 tokens of noise.

Gu & Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.1. The larger setting of
`selective_copying.py`: an alphabet of 16, and width 64.

python -m train configs/tasks/selective_copying_long.py --replicas 3

Expected accuracy after 1,500 steps, with the range of 3 seeds:

  mixer                          rate   accuracy
  mamba                          7e-3   0.997 (0.991 to 0.999)
  mamba                          3e-3   0.943 (0.912 to 0.963)
  gated_deltanet, heads 4        3e-3   0.998 (0.997 to 0.999)
  s4d, which is time-invariant   7e-3   0.674 (0.643 to 0.694)
  s4d                            3e-3   0.544 (0.537 to 0.556)

Chance is 0.0625. Three seeds of Mamba take 12 minutes of one core.
"""

import dataclasses

from configs.tasks import selective_copying
from train.config import Config
from train.data.tasks import SelectiveCopying


def get_config() -> Config:
  """Two layers of Mamba without channel mixers, 1,500 updates."""
  config = selective_copying.get_config()
  data = SelectiveCopying(length=80, train_examples=48_000)
  model = config.model.clone(vocab_size=data.vocab_size, width=64)
  return dataclasses.replace(
    config,
    model=model,
    data=data,
    steps=1500,
    eval_every=500,
    checkpoint_every=1500,
  )
