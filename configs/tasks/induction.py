"""X."""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import InductionHeads


def get_config() -> Config:
  """X."""
  return Config(
    model=LanguageModel(
      vocab_size=16,
      width=32,
      depth=2,
      mixers=(("mamba", {}),),
      mlp="none",
    ),
    data=InductionHeads(
      length=32,
      validation_length=256,
      train_examples=16_000,
      validation_examples=200,
    ),
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=50),
    batch_size=32,
    steps=500,
    eval_every=500,
    checkpoint_every=500,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
