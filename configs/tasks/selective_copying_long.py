"""Copying 8 symbols that lie at random places in 64 tokens of noise.

Gu & Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.1. The larger setting of
`selective_copying.py`: an alphabet of 16, and width 64.

python -m train configs/tasks/selective_copying_long.py --replicas 3
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
