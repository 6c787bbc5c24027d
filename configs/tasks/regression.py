"""Linear regression in context."""

from jaxmodels.models import VectorModel
from train.config import AdamW, Config, Sample
from train.data.tasks import LinearRegression
from train.losses import Explained


def get_config() -> Config:
  """Eight dimensions, 32 pairs per row, one layer."""
  data = LinearRegression(length=32, dims=8, noise=0.25, train_examples=40_000)
  return Config(
    model=VectorModel(
      input_width=data.width,
      output_width=1,
      width=64,
      depth=1,
      mixers=(("mesa", {"heads": 2}),),
      mlp="none",
    ),
    data=data,
    loss=Explained(),
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=50),
    batch_size=64,
    steps=600,
    eval_every=300,
    checkpoint_every=600,
    best_metric="explained",
    sample=Sample(length=0),
  )
