"""Multi-query associative recall."""

from typing import Any

from jaxmodels.models import Backbone, LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Mqar


class ConvolutionFirst(LanguageModel):
  """A language model with a gated short convolution before each mixer.

  The convolution joins each value to the key before it. So every mixer gets
  pairs, and the accuracy measures its memory rather than its own convolution.
  """

  def _backbone(self, **scope: Any) -> Backbone:
    stack = super()._backbone(parent=None)
    mixers = [
      layer for entry in self.mixers for layer in ("short_convolution", entry)
    ]
    return stack.copy(mixers=tuple(mixers), **scope)


def get_config() -> Config:
  """Eight pairs of key and value per row, each key queried later."""
  return Config(
    model=ConvolutionFirst(
      vocab_size=64,
      width=64,
      depth=2,
      mixers=(("gated_deltanet", {"heads": 2}),),
      mlp="none",
    ),
    data=Mqar(
      length=40,
      vocab_size=64,
      num_pairs=8,
      train_examples=16_000,
      validation_examples=500,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=32,
    steps=1600,
    eval_every=400,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
