"""Recalling what followed a special token, at 8 times the training length.

Gu & Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.2: only a layer whose step
depends on the token keeps its accuracy far beyond the training length. The
paper trains at 256 tokens and tests up to a million; here training has 32
tokens and validation 256.

python -m train configs/tasks/induction.py --replicas 3
python -m benchmarks.selection

Accuracy at 256 tokens after 500 steps: 0.925 (0.780 to 1.000 over 3 seeds).
Chance is 0.067. Three seeds take 58 s of processor time. The second
command compares mixers at four lengths: see `benchmarks/results/selection.md`.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import InductionHeads


def get_config() -> Config:
  """Two layers of Mamba without channel mixers."""
  return Config(
    model=LanguageModel(
      vocab_size=16,
      width=32,
      depth=2,
      mixers=(("mamba", {}),),
      mlp="none",
    ),
    data=InductionHeads(
      length=32,
      validation_length=256,
      train_examples=16_000,
      validation_examples=200,
    ),
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=50),
    batch_size=32,
    steps=500,
    eval_every=500,
    checkpoint_every=500,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
