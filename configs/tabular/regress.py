"""How far has a patient's diabetes gone in a year? Mambular on ten columns.

python -m train configs/tabular/regress.py --workdir runs/diabetes

The table comes with scikit-learn: 442 rows of nine numbers and the sex; a
quarter of the rows is held out.

Expect a squared error of 0.540 with seed 0, in units of the variance of the
training rows, where their mean has 0.951. `python -m benchmarks.tabular` trains
this config on three splits by a loop of its own: R^2 0.462 (0.437 to 0.481),
where gradient boosting has 0.442, histogram boosting 0.415 and ridge regression
0.510 on the same rows. So Mambular beats boosting here, and ridge regression
beats both.
"""

import dataclasses

from configs.tabular import classify
from train.config import Config
from train.data.tasks import Table
from train.losses import Regression


def get_config() -> Config:
  """The model of `configs/tabular/classify.py` with one number as output."""
  config = classify.get_config()
  return dataclasses.replace(
    config,
    model=config.model.clone(outputs=1, categories=(2,)),
    data=Table(name="diabetes"),
    loss=Regression(pooling="none"),
    best_metric="squared_error",
  )
