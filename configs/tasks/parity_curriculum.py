"""Parity of longer and longer words with one layer of Mamba-3.

The task of `parity.py`. Lahoti et al. 2026, "Mamba-3: Improved Sequence
Modeling using State Space Principles", arXiv:2603.15569: rotations that depend
on the token compute parity, after training on words of up to 160 bits, the
shortest first.

python -m train configs/tasks/parity_curriculum.py --replicas 3 --workdir runs/x

Expected accuracy at 256 bits: 0.985 (0.967 to 1.000 over 3 seeds). Chance is
0.50. One seed takes about 34 s of one core, with compilation.

Training starts with words of 4 bits, for the angle of a one has to be half a
turn before longer words say anything about it. With words of 40 bits alone the
layer stays at chance. From 10 to 20 bits in one stage, at a rate of 1e-2, it
forgot what it had learnt.
"""

import dataclasses

from configs.tasks import parity
from train.config import AdamW, Config
from train.data import Stages
from train.data.tasks import Parity

# Words per row of 160 bits, one stage each.
DOCUMENTS = (40, 20, 16, 10, 8, 5, 4, 2, 1)


def get_config() -> Config:
  """One layer without a channel mixer, 100 steps per length of words."""
  steps, batch_size = 100, 16
  config = parity.get_config()
  mixer = {"head_width": 16, "state_width": 16, "rotary_fraction": 1.0}
  stages = tuple(
    Parity(
      length=160,
      documents=documents,
      validation_length=256,
      train_examples=steps * batch_size,
      validation_examples=128,
    )
    for documents in DOCUMENTS
  )
  return dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, mixers=(("mamba3", mixer),)),
    data=Stages(sources=stages),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50, weight_decay=0.01),
    batch_size=batch_size,
    steps=steps * len(stages),
    eval_every=steps,
    checkpoint_every=steps * len(stages),
  )
