"""ListOps."""

from jaxmodels.models import Classifier
from train.config import AdamW, Config, Sample
from train.data.tasks import Classes, ListOps
from train.losses import Classification


def get_config() -> Config:
  """An expression has 8 to 64 tokens."""
  task = ListOps(length=32, shortest=4, arguments=5, train_examples=20_000)
  return Config(
    model=Classifier(
      vocab_size=16,
      classes=11,
      width=48,
      depth=2,
      mixers=(("gated_deltanet", {"heads": 2}),),
    ),
    data=Classes(task=task),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=4e-3, warmup_steps=50),
    batch_size=64,
    steps=1000,
    eval_every=1000,
    checkpoint_every=1000,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
