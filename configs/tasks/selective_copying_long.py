"""Copying 8 symbols that lie at random places in noise, in their order.

The task of `selective_copying.py` with 64 tokens of noise, an alphabet of 16
and layers of width 64 (Gu & Dao 2023, "Mamba", arXiv:2312.00752, section
4.1.1).

python -m train configs/tasks/selective_copying_long.py --replicas 3
"""

import dataclasses

from configs.tasks import selective_copying
from train.config import AdamW, Config
from train.data.tasks import SelectiveCopying


def get_config() -> Config:
  """Two layers of Mamba without channel mixers."""
  config = selective_copying.get_config()
  return dataclasses.replace(
    config,
    model=config.model.clone(vocab_size=18, width=64),
    data=SelectiveCopying(
      length=80, count=8, alphabet=16, train_examples=48_000
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=100),
    steps=1500,
    eval_every=500,
    checkpoint_every=1500,
  )
