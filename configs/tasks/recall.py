"""Multi-query associative recall: eight pairs, each key queried later.

  python -m train configs/tasks/recall.py --workdir runs/recall-task

MQAR of Zoology (Arora et al. 2023, arXiv:2312.04927): attention solves it, and
what a linear-time mixer recalls depends on its state and its update. Yang et
al. 2024 (arXiv:2412.06464) claim that the gated delta rule recalls well.

Sizes: rows of 40 tokens, 8 of 31 keys and of 32 values, queries at power-law
distances. Four pairs are too easy. With one head and a state of 4 KiB, DeltaNet
recalled 0.995 after 400 steps and linear attention 0.504 (one seed; see
benchmarks/results/recall.md).

The first layer is a gated convolution for every mixer. Without it, two layers
of softmax attention stayed at 0.11 for 800 steps (12 pairs); with it, one layer
reached 1.00 after 200 (10 pairs). Guessing among the values of the row gives
0.125.

The run is long, since gated DeltaNet learns late because of its output gate: it
left 0.15 after 300 to 500 steps. Expect 0.997 after 1,600 steps
(seed 1; the other seeds were not trained to the end). After 800 steps with a
schedule of 800, the three seeds had 0.998, 0.280 and 0.147. Chance, the most
frequent value, is 0.035.

A run took 48 s of processor time on a busy machine. Sweep the rate:
`--replicas 3 --replica-rates 2.5e-3 5e-3 1e-2`. At 1.5e-2 six of ten
mixers stayed below 0.14 after 400 steps.
"""

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
      mixers=(("gated_deltanet", {"heads": 2, "output_gate": False}),),
      mlp="none",
    ),
    data=Mqar(
      length=40,
      vocab_size=64,
      num_pairs=8,
      train_examples=25_600,
      validation_examples=500,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=32,
    steps=800,
    eval_every=400,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
