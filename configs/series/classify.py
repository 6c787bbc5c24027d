"""TODO."""

from jaxmodels.models import SeriesClassifier
from train.config import AdamW, Config, Sample
from train.data.tasks import SpokenVowels
from train.losses import Classification


def get_config() -> Config:
  """TSCMamba with 16 numbers per view."""
  return Config(
    model=SeriesClassifier(classes=9, width=16),
    data=SpokenVowels(),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=2e-3, warmup_steps=50, weight_decay=0.1),
    batch_size=45,
    steps=300,
    eval_every=100,
    checkpoint_every=300,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
