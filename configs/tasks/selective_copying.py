"""X."""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import SelectiveCopying


def get_config() -> Config:
  """X."""
  return Config(
    model=LanguageModel(
      vocab_size=10,
      width=32,
      depth=2,
      mixers=(("mamba", {}),),
      mlp="none",
    ),
    data=SelectiveCopying(
      length=40, count=4, alphabet=8, train_examples=25_600
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=32,
    steps=800,
    eval_every=400,
    checkpoint_every=800,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
