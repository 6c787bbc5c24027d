"""Recall of values by keys, both one to three tokens long.

  python -m train configs/tasks/fuzzy_recall.py --replicas 3

Fuzzy in-context recall of MAD (Poli et al. 2024, arXiv:2403.17844): a mixer has
to join the tokens of a key before it looks the key up. Rows of 64 tokens with
six pairs; all tokens of a value count. The first layer is a gated convolution
of width 3 for every mixer, as in recall.py.

Expect 0.985 from DeltaNet after 400 steps (three seeds, 0.982 to 0.988).
Chance, the most frequent token, is 0.130. Three seeds took 56 s of processor
time on a busy machine. Other mixers were not measured.
"""

from configs.tasks.recall import ConvolutionFirst
from train.config import AdamW, Config, Sample
from train.data.tasks import FuzzyRecall


def get_config() -> Config:
  """Six pairs per row; keys and values have one to three tokens."""
  return Config(
    model=ConvolutionFirst(
      vocab_size=16,
      width=64,
      depth=2,
      mixers=(("delta_net", {"heads": 2}),),
      mlp="none",
    ),
    data=FuzzyRecall(
      length=64,
      pairs=6,
      train_examples=12_800,
      validation_examples=500,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=32,
    steps=400,
    eval_every=400,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
