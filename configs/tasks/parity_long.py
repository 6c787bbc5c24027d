"""The training of `parity.py` on 40 bits, measured at 1,000 bits.

Grazzi et al. 2024, arXiv:2411.12537. 1,000 bits are 25 times the length of
training.

python -m train configs/tasks/parity_long.py --replicas 3 --workdir runs/parity

Expected accuracy: 1.000 for each of 3 seeds, and 0.50 with
`--model.mixers.0.negative-eigenvalues False` (one seed). Chance is 0.50. One
seed takes about 13 s of one core, with compilation.
"""

import dataclasses

from configs.tasks import parity
from train.config import Config


def get_config() -> Config:
  """25 times the length of training."""
  config = parity.get_config()
  data = dataclasses.replace(config.data, validation_length=1000)
  return dataclasses.replace(config, data=data, eval_every=400)
