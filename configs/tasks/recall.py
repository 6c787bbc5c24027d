"""Multi-query associative recall: eight pairs, each key queried later.

  python -m train configs/tasks/recall.py --workdir runs/recall-task

MQAR of Zoology (Arora et al. 2023, arXiv:2312.04927): attention solves it, and
what a linear-time mixer recalls depends on its state and its update. Yang et
al. 2024 (arXiv:2412.06464) claim that the gated delta rule recalls well.

Sizes: rows of 40 tokens, 8 of 31 keys and of 32 values, queries at power-law
distances. Four pairs are too easy. `benchmarks/recall/RESULTS.md` has the
accuracy of many mixers against the bytes of their state.

The first layer is a gated convolution for every mixer. Without it, two layers
of softmax attention stayed at 0.11 for 800 steps (12 pairs); with it, one layer
reached 1.00 after 200 (10 pairs). Guessing among the values of the row gives
0.125.

Rows with 2 and 4 pairs come first. With 8 pairs from the start, the seed
decided when a mixer learnt at all: after 800 steps, three seeds of the gated
delta rule had 1.00, 0.37 and 1.00. With stages of 150, 150 and 500 steps the
second one had 0.98 after 400 steps and 1.00 after 800. Output gates delay
learning and are off here. Mamba did not learn 2 pairs in 150 steps (one seed).
Chance, the most frequent value, is 0.035.

A run takes about 15 s of one core. At a rate of 1.5e-2, six of ten mixers
stayed below 0.14 after 400 steps.
"""

from typing import Any

from jaxmodels.models import Backbone, LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Mqar, Stages

# Pairs per row, and updates.
STAGES = (2, 100), (4, 100), (8, 400)


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
      mixers=(("gated_deltanet", {"heads": 2, "output_gate": False}),),
      mlp="none",
    ),
    data=Stages(
      sources=tuple(
        Mqar(
          length=40,
          vocab_size=64,
          num_pairs=pairs,
          train_examples=steps * 32,
          validation_examples=500,
        )
        for pairs, steps in STAGES
      )
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=32,
    steps=sum(steps for _, steps in STAGES),
    eval_every=300,
    checkpoint_every=600,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
