"""X."""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import NParity


def get_config() -> Config:
  """X."""
  return Config(
    model=LanguageModel(
      vocab_size=16,
      width=32,
      depth=2,
      mixers=(("s4d", {}),),
    ),
    data=NParity(
      length=64,
      stages=(2, 2, 2, 3, 4, 5, 6, 7, 8, 8),
      train_examples=16_000,
      validation_examples=500,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=16,
    steps=1000,
    eval_every=500,
    checkpoint_every=1000,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
