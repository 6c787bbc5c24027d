"""Digits."""

from jaxmodels.models import Classifier
from train.config import AdamW, Config, Sample
from train.data.tasks import Classes, Digits
from train.losses import Classification


def get_config() -> Config:
  """One epoch is 22 updates."""
  return Config(
    model=Classifier(
      vocab_size=17,
      classes=10,
      width=32,
      depth=2,
      mixers=(("gla", {"heads": 2}),),
      mlp="none",
    ),
    data=Classes(task=Digits()),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=4e-3, warmup_steps=50),
    batch_size=64,
    steps=600,
    eval_every=200,
    checkpoint_every=600,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
