"""Recall of values by keys that return, with noise between the pairs.

  python -m train configs/tasks/noisy_recall.py --replicas 3

In-context recall with noise of MAD (Poli et al. 2024, arXiv:2403.17844): a
mixer has to keep pairs and leave noise out of its state. Rows of 64 tokens, 20%
noise, 16 keys and 16 values. The first layer is a gated convolution for every
mixer, as in recall.py.

Expect 1.000 from DeltaNet after 400 steps, for each of three seeds. Chance, the
most frequent value, is 0.069. Three seeds took 57 s of processor time on a busy
machine. Other mixers were not measured.
"""

from configs.tasks.recall import ConvolutionFirst
from train.config import AdamW, Config, Sample
from train.data.tasks import NoisyRecall


def get_config() -> Config:
  """Sixteen keys, of which each row gives the values, and 20% noise."""
  return Config(
    model=ConvolutionFirst(
      vocab_size=48,
      width=64,
      depth=2,
      mixers=(("delta_net", {"heads": 2}),),
      mlp="none",
    ),
    data=NoisyRecall(
      length=64,
      keys=16,
      values=16,
      noise_tokens=16,
      noise=0.2,
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
