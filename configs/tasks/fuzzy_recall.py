"""Recall of values by keys of one to three tokens each."""

from configs.tasks.recall import ConvolutionFirst
from train.config import AdamW, Config, Sample
from train.data.tasks import FuzzyRecall


def get_config() -> Config:
  """Six pairs per row; keys and values have one to three tokens."""
  return Config(
    model=ConvolutionFirst(
      vocab_size=16,
      width=64,
      depth=2,
      mixers=(("delta_net", {"heads": 2}),),
      mlp="none",
    ),
    data=FuzzyRecall(
      length=64,
      pairs=6,
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
