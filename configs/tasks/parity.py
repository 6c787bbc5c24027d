"""Parity of 40 bits with one layer of DeltaNet, measured at 240 bits.

After each bit the model says whether the number of ones so far is odd. Grazzi
et al. 2024, "Unlocking State-Tracking in Linear RNNs Through Negative
Eigenvalues", arXiv:2411.12537: a linear recurrence with eigenvalues in [0, 1]
cannot do this at all lengths, and one that reaches -1 can.

python -m train configs/tasks/parity.py --replicas 3 --workdir runs/parity

Expected accuracy: 1.000 for each of 3 seeds, also at 1,000 bits. Chance is
0.50. One seed takes about 13 s of one core, with compilation.

A short convolution before the recurrence mixes each bit with its neighbours and
hides the solution: give `kernel_width` None, or 1 for Mamba and Mamba-2. Label
smoothing makes the solution exact, so that it holds beyond the length of
training; `benchmarks/results/state_tracking.md` says why.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import Parity
from train.losses import NextToken


def get_config() -> Config:
  """One layer without a channel mixer; beta reaches up to 2."""
  mixer = {"heads": 2, "negative_eigenvalues": True, "kernel_width": None}
  return Config(
    model=LanguageModel(
      vocab_size=2,
      width=32,
      depth=1,
      mixers=(("delta_net", mixer),),
      mlp="none",
      tie_embeddings=False,
    ),
    data=Parity(
      length=40,
      validation_length=240,
      train_examples=25_600,
      validation_examples=128,
    ),
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=50, weight_decay=0.01),
    loss=NextToken(label_smoothing=0.1),
    batch_size=64,
    steps=400,
    log_every=50,
    eval_every=200,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
