"""Whether the number of ones among the last 8 bits is odd, by a curriculum.

The curriculum raises the number of bits from 2 to 8, one by one.
Khajehabdollahi et al. 2023, arXiv:2309.12927: recurrent networks acquire long
timescales if training asks for them step by step.

python -m train configs/tasks/n_parity.py --replicas 3

Accuracy on held-out rows with 8 bits, at every bit, after 1,000 steps: 0.963
(0.929 to 0.994 over 3 seeds). Without the curriculum (`--data.stages 8`): 0.502
with each of 3 seeds. Chance is 0.5. Three seeds take 76 s of processor time.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import NParity


def get_config() -> Config:
  """Two layers of S4D; the first stage, two bits, has most rows."""
  return Config(
    model=LanguageModel(
      vocab_size=16,
      width=32,
      depth=2,
      mixers=(("s4d", {}),),
    ),
    data=NParity(
      length=64,
      stages=(2, 2, 2, 3, 4, 5, 6, 7, 8, 8),
      train_examples=16_000,
      validation_examples=500,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=16,
    steps=1000,
    eval_every=500,
    checkpoint_every=1000,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
