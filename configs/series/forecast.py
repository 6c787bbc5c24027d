"""TODO."""

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
