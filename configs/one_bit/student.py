"""Byte text with Mamba-2, whose projections have weights of one bit.

python -m train configs/one_bit/student.py --workdir runs/one_bit/student

With `one_bit` False it is the teacher of `distilled.py`, in full precision:

python -m train configs/one_bit/student.py --model.mixers.0.one-bit False \
  --steps 1200 --workdir runs/one_bit/teacher

Bi-Mamba (Tang et al. 2024, arXiv:2411.11843): the projections of Mamba-2 have
one bit per weight; embeddings, which are also the head, norms, convolutions and
the parameters of the state space do not. `python -m benchmarks.examples.one_bit
runs/one_bit/*` prints the table. Expect, on 100,000 held-out bytes (means of
seeds 0 to 2, which differ by 0.008 to 0.042; seconds of processor time, with
compilation, on a busy machine):

  model                                 updates  bits per byte    bytes  seconds
  teacher, float32                        1,200          2.072  1,004,128    173
  teacher, binarised after training       1,200          2.923    185,056
  student (this config)                     600          2.434    185,056    110
  student, distilled (distilled.py)         600          2.360    185,056    133

gzip -9 has 2.235 and a unigram model 4.512. The students are 0.36 and 0.29 bits
per byte behind the teacher, which also has more updates. Bytes are those of all
parameters, the one-bit weights packed. The 214,016 weights of the projections
take 36,992 of them with their scales and shifts in float32, where float32 takes
856,064 and bfloat16 428,032. The logits of the packed models were those of the
trained ones, bit for bit.
"""

from jaxmodels.mixers import Mamba2
from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Text


def get_config() -> Config:
  """600 updates of 1,024 bytes."""
  return Config(
    model=LanguageModel(
      vocab_size=257,
      width=128,
      depth=2,
      mixers=(Mamba2(128, state_width=32, one_bit=True),),
      mlp="none",
      scan_layers=True,
    ),
    data=Text(length=256, held_out_bytes=100_000),
    optimizer=AdamW(learning_rate=4e-3, warmup_steps=50),
    batch_size=4,
    steps=600,
    eval_every=600,
    checkpoint_every=600,
    best_metric="loss",
    sample=Sample(length=0),
  )
