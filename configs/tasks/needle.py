"""Retrieval of a needle of four tokens from a haystack, at twice the length.

  python -m train configs/tasks/needle.py --replicas 3

The passkey task of Mohtashami & Jaggi 2023 (arXiv:2305.16300): a state of any
size can hold four tokens, if the mixer writes them and leaves the rest out.
Rows of 64 tokens, held-out rows of 128. The first layer is a gated convolution
for every mixer, as in recall.py.

Expect 1.000 from DeltaNet after 400 steps, for each of three seeds. Chance, the
most frequent token, is 0.075. Three seeds took 42 s of processor time on a busy
machine. Other mixers were not measured.
"""

from configs.tasks.recall import ConvolutionFirst
from train.config import AdamW, Config, Sample
from train.data.tasks import Needle


def get_config() -> Config:
  """A marked needle of four tokens in a row of 64."""
  return Config(
    model=ConvolutionFirst(
      vocab_size=16,
      width=64,
      depth=2,
      mixers=(("delta_net", {"heads": 2}),),
      mlp="none",
    ),
    data=Needle(
      length=64,
      width=4,
      validation_length=128,
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
