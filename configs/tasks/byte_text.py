"""Python's own sources, byte by byte: bits per byte at equal sizes, with GLA.

Every mixer reads the same 614,400 bytes in the same order, in a model of
0.25M parameters. `python -m train.equal_width` finds the width at which a model
with another mixer has as many parameters:

python -m train configs/tasks/byte_text.py --replicas 3 --workdir runs/bytes
python -m train.equal_width configs/tasks/byte_text.py --model.mixers s5 \
  --like configs/tasks/byte_text.py

The models of language-modelling papers are compared in this way, at far more
parameters and tokens (GLA, Yang et al. 2023, arXiv:2312.06635).

Expected bits per byte of 100,000 held-out bytes: GLA 2.67 (2 seeds; 251,136
parameters, 18,432 bytes of state), and S5 2.73 (2.65 to 2.82 over 3 seeds) at
width 104 (250,624 parameters, 512 bytes). Chance, all bytes alike, is 8; a
unigram model has 4.51 and gzip -9 2.23, which neither reaches after so few
bytes. A seed of GLA takes 48 s of processor time, and of S5 25 to 35 s, on a
machine that did other work too.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Text


def get_config() -> Config:
  """600 updates of 1,024 bytes."""
  return Config(
    model=LanguageModel(
      vocab_size=257,
      width=96,
      depth=2,
      mixers=(("gla", {"heads": 2}),),
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
