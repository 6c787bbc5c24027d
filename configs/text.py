"""A hybrid language model on Python's own sources that beats gzip -9.

make train CONFIG=configs/text.py
"""

from jaxmodels.models import LanguageModel
from train.config import Config, Optimizer, Sample
from train.data import Text


def get_config() -> Config:
  """Two delta-rule layers for every layer of sliding-window attention."""
  return Config(
    model=LanguageModel(
      vocab_size=257,
      width=192,
      depth=6,
      mixers=("gated_deltanet", "gated_deltanet", "sliding_attention"),
      mixer_options={
        "gated_deltanet": {"heads": 3},
        "sliding_attention": {"heads": 3, "window": 128},
      },
    ),
    data=Text(length=512),
    optimizer=Optimizer(learning_rate=3e-3, warmup_steps=100),
    batch_size=8,
    steps=2400,
    eval_every=800,
    checkpoint_every=200,
    sample=Sample(prompt="def ", length=500),
  )
