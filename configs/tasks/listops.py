"""The value of nested lists, ListOps, in short rows, with S5.

An expression such as [MAX 2 9 [MIN 4 7] 0] has the value 9, a digit (Nangia &
Bowman 2018, arXiv:1804.06028). Long Range Arena has rows of up to 2,048 tokens
(Tay et al. 2020, arXiv:2011.04006), where the best transformer there is right
for 0.37 of them, and S5 for 0.62 (Smith et al. 2023, arXiv:2208.04933). Here an
expression has 4 to 32 tokens and up to 5 arguments per list: half of them are
one list, and 0.24 have lists of depth 3 or more. In longer rows S5 is hardly
better than logistic regression after 600 updates: with 8 to 64 tokens and up to
10 arguments per list it has 0.385, and the regression on the counts of the
tokens 0.369.

python -m train configs/tasks/listops.py --replicas 3 --workdir runs/listops

Expected accuracy on 1,000 held-out rows: 0.502 (0.479 to 0.518 over 3 seeds);
with `--model.mixers gla --model.mixers.0.heads 2`, 0.594 (one seed). Chance is
0.12, the most frequent value. Logistic regression on the counts of all tokens
has 0.446, and with the outermost operator and its products with the counts
0.518. Two seeds of S5 take 53 s of processor time, and one of GLA 75 s on a
machine that did other work too.
"""

from jaxmodels.models import Classifier
from train.config import AdamW, Config, Sample
from train.data.tasks import Classes, ListOps
from train.losses import Classification


def get_config() -> Config:
  """Zeros fill the front of a row, so the last token is its end."""
  task = ListOps(length=32, shortest=4, arguments=5, train_examples=20_000)
  return Config(
    model=Classifier(
      vocab_size=16,
      classes=11,
      width=48,
      depth=2,
      mixers=(("s5", {}),),
    ),
    data=Classes(task=task),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=4e-3, warmup_steps=50),
    batch_size=64,
    steps=800,
    eval_every=800,
    checkpoint_every=800,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
