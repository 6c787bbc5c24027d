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

from jaxmodels.models import TabularModel
from train.config import AdamW, Config, Sample
from train.data.tasks import Table
from train.losses import Regression


def get_config() -> Config:
  """The model of `configs/tabular/classify.py` with one number as output."""
  return Config(
    model=TabularModel(
      outputs=1,
      categories=(2,),
      width=16,
      depth=1,
      mixers=(("mamba", {"state_width": 8}),),
      mlp="none",
    ),
    data=Table(name="diabetes"),
    loss=Regression(pooling="none"),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=20, weight_decay=0.1),
    batch_size=64,
    steps=150,
    eval_every=150,
    checkpoint_every=150,
    best_metric="squared_error",
    sample=Sample(length=0),
  )
