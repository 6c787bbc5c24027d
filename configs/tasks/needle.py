"""Retrieval of a needle of four tokens from a haystack."""

from configs.tasks.recall import ConvolutionFirst
from train.config import AdamW, Config, Sample
from train.data.tasks import Needle


def get_config() -> Config:
  """A marked needle of four tokens in a row of 64."""
  return Config(
    model=ConvolutionFirst(
      vocab_size=16,
      width=64,
      depth=2,
      mixers=(("delta_net", {"heads": 2}),),
      mlp="none",
    ),
    data=Needle(
      length=64,
      width=4,
      validation_length=128,
      train_examples=12_800,
      validation_examples=500,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=32,
    steps=400,
    eval_every=400,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
