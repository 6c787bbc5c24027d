"""Twelve series of an economy, a year ahead, with S-Mamba.

python -m train configs/series/variates.py --replicas 3 --workdir runs/variates

Quarters of the economy of the United States from 1959 to 2009: output, prices,
money, unemployment and others, which come with statsmodels (the extra
`series`). The next four quarters follow from the last sixteen. The last 30% of
the quarters are held out, the crisis of 2008 among them. Errors are mean
squared errors over the variates in units of their variance in the training
quarters: the metric "squared_error".

Expect 0.192 (seeds 0 to 2: 0.185, 0.191 and 0.200) after 29 seconds of
processor time for the three seeds. On the same windows the last quarter has
0.224, the same quarter of the year before 0.274, ridge regression from each
variate to itself 0.194, and from all variates to all 0.188: `python -m
benchmarks.series`. So S-Mamba beats the naive forecasts and is as good as
linear regression, within its seeds. There are 123 windows, which more updates
overfit: after 200 of 300 the seeds had 0.200, 0.203 and 0.244.
"""

from jaxmodels.models import InvertedForecaster
from train.config import AdamW, Config, Sample
from train.data.tasks import Forecasts
from train.losses import Regression


def get_config() -> Config:
  """S-Mamba."""
  return Config(
    model=InvertedForecaster(horizon=4, width=32, depth=1),
    data=Forecasts(series="macrodata", look_back=16, horizon=4),
    loss=Regression(pooling="none"),
    optimizer=AdamW(learning_rate=2e-3, warmup_steps=20, weight_decay=0.1),
    batch_size=41,
    steps=100,
    eval_every=50,
    checkpoint_every=100,
    best_metric="squared_error",
    sample=Sample(length=0),
  )
