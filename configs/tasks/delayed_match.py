"""Whether a probe shows the symbol of a cue, 120 tokens of noise before it.

A curriculum doubles the delay from 2 to 64 tokens, then makes it 120.
Khajehabdollahi et al. 2023, arXiv:2309.12927: recurrent networks acquire long
timescales if training asks for them step by step.

python -m train configs/tasks/delayed_match.py --replicas 3

Accuracy at 120 tokens on held-out rows after 500 steps: 1.000 (1.000 to 1.000
over 3 seeds). Without the curriculum (`--data.stages 120`): 0.514 with each of
3 seeds; such rows have one probe each, and those of the first stage 32. Chance
is 0.5. Three seeds take 30 s of processor time.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import DelayedMatch


def get_config() -> Config:
  """Two layers of GLA; the last delay has twice as many rows as others."""
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
