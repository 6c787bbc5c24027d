"""Whether a probe shows the symbol of a cue, 120 tokens of noise before it.

A curriculum doubles the delay from 2 to 64 tokens, then makes it 120.
Khajehabdollahi et al. 2023, arXiv:2309.12927: recurrent networks acquire long
timescales if training asks for them step by step.

python -m train configs/tasks/delayed_match.py --replicas 3

MEASURED_DM
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import DelayedMatch


def get_config() -> Config:
  """Two layers of GLA; all stages have as many rows but the last, twice."""
  return Config(
    model=LanguageModel(
      vocab_size=12,
      width=32,
      depth=2,
      mixers=(("gla", {"heads": 2}),),
    ),
    data=DelayedMatch(
      length=128,
      stages=(2, 4, 8, 16, 32, 64, 120, 120),
      train_examples=4_000,
      validation_examples=500,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=8,
    steps=500,
    eval_every=500,
    checkpoint_every=500,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
