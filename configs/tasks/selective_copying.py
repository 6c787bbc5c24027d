"""Copying 4 symbols that lie at random places in noise, in their order.

Gu & Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.1: layers whose step
depends on the token select the symbols, and time-invariant layers cannot. The
paper has 16 symbols at 4,096 places; here are 4 of an alphabet of 8 at 28.

python -m train configs/tasks/selective_copying.py --replicas 3

Accuracy on held-out rows after 600 steps: 0.976 (0.947 to 1.000 over 3 seeds).
The time-invariant S4D (`--model.mixers s4d`) has 0.749 with seed 0.
Chance is 0.125. Three seeds take 61 s of processor time.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import SelectiveCopying


def get_config() -> Config:
  """Two layers of Mamba without channel mixers."""
  return Config(
    model=LanguageModel(
      vocab_size=10,
      width=32,
      depth=2,
      mixers=(("mamba", {}),),
      mlp="none",
    ),
    data=SelectiveCopying(
      length=32, count=4, alphabet=8, train_examples=19_200
    ),
    optimizer=AdamW(learning_rate=7e-3, warmup_steps=50),
    batch_size=32,
    steps=600,
    eval_every=600,
    checkpoint_every=600,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
