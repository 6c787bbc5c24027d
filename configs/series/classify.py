"""TODO."""

from jaxmodels.models import SeriesClassifier
from train.config import AdamW, Config, Sample
from train.data.tasks import SpokenVowels
from train.losses import Classification


def get_config() -> Config:
  """TSCMamba with 16 numbers per view."""
  return Config(
    model=SeriesClassifier(
      classes=9,
      width=16,
      mixers=(("mamba", {"state_width": 8}),),
      feature_mixers=(),
      view="both",
      pooling="flat",
    ),
    data=SpokenVowels(),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=30, weight_decay=0.1),
    batch_size=45,
    steps=150,
    eval_every=150,
    checkpoint_every=150,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
