"""Bytes."""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Text


def get_config() -> Config:
  """614,400 tokens."""
  return Config(
    model=LanguageModel(
      vocab_size=257,
      width=96,
      depth=2,
      mixers=(("gla", {"heads": 2}),),
    ),
    data=Text(length=256, held_out_bytes=100_000),
    optimizer=AdamW(learning_rate=4e-3, warmup_steps=50),
    batch_size=4,
    steps=600,
    eval_every=600,
    checkpoint_every=600,
    best_metric="loss",
    sample=Sample(length=0),
  )
