"""Multi-query associative recall with two layers of the gated delta rule.

make train CONFIG=configs/mqar.py

Expect 100% of the held-out queries right after 1,000 steps: one minute on two
cores.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Mqar


def get_config() -> Config:
  """Eight pairs of key and value per row, each key queried later."""
  return Config(
    model=LanguageModel(
      vocab_size=256,
      width=64,
      depth=2,
      mixers=("gated_deltanet",),
      mixer_options={"gated_deltanet": {"heads": 2}},
      mlp="none",
    ),
    data=Mqar(length=64, vocab_size=256, num_pairs=8, train_examples=40_000),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=64,
    steps=1000,
    eval_every=250,
    checkpoint_every=250,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
