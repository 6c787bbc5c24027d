"""Sea temperatures of the next year from those of the last three years.

python -m train configs/series/forecast.py --replicas 3 --workdir runs/forecast

The monthly temperatures of a region of the Pacific from 1950 to 2010, which
come with statsmodels (the extra `series`). The last 30% of the months are held
out. Errors are mean squared errors in units of the variance of the training
months: the metric "squared_error".

Expect 0.293 (seeds 0 to 2: 0.304, 0.292 and 0.284) after 38 seconds of
processor time for the three seeds. On the same windows the last year has 0.541,
ridge regression 0.271, and DLinear (two parts of the window, least squares)
0.271: `python -m benchmarks.series`. So the model beats the naive forecast, and
linear regression of 36 numbers beats the model. More updates overfit the 465
windows: after 200 of the 400 the three seeds have 0.276.

The model does not normalise windows here (`normalize=False`), because the level
of a window tells how far it is from the mean of the sea, to which it returns.
"""

from jaxmodels.models import Forecaster
from train.config import AdamW, Config, Sample
from train.data.tasks import Forecasts
from train.losses import Regression


def get_config() -> Config:
  """One layer of S5 that reads a variate month by month."""
  return Config(
    model=Forecaster(
      horizon=12,
      normalize=False,
      linear=True,
      width=32,
      depth=1,
      mixers=(("s5", {}),),
    ),
    data=Forecasts(),
    loss=Regression(pooling="none"),
    optimizer=AdamW(learning_rate=2e-3, warmup_steps=50, weight_decay=0.1),
    batch_size=64,
    steps=400,
    eval_every=100,
    checkpoint_every=400,
    best_metric="squared_error",
    sample=Sample(length=0),
  )
