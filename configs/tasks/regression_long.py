"""Linear regression in context until one Mesa layer is near ridge regression.

    python -m train configs/tasks/regression_long.py --workdir runs/mesa_long

The task and the claim are those of `configs/tasks/regression.py`. The run is
five times as long, and the regularisation of the layer may fall to 0.05 in
place of 0.25: ridge regression on keys of length 1 with 0.25 explains 0.97, and
with the best strength 0.99.

Expect 0.989 (one seed was run) in 3 minutes of processor time, where
chance is 0.
"""

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
