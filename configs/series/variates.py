"""TODO."""

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
    optimizer=AdamW(learning_rate=2e-3, warmup_steps=50, weight_decay=0.1),
    batch_size=41,
    steps=300,
    eval_every=50,
    checkpoint_every=300,
    best_metric="squared_error",
    sample=Sample(length=0),
  )
