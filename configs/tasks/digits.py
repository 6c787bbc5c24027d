"""Handwritten digits, read pixel by pixel, with S5.

The 1,797 images of scikit-learn have 8 x 8 pixels. The model reads 64 pixels
and then names the digit. This is the small form of sequential MNIST (Le et al.
2015, arXiv:1504.00941), which needs a memory of what was read and where. Claim:
state spaces solve it (S5, Smith et al. 2023, arXiv:2208.04933: 99.65% on
sequential MNIST).

python -m train configs/tasks/digits.py --replicas 3 --workdir runs/digits

It needs scikit-learn: the extra `tasks`.

Expected accuracy on 360 held-out images: 0.969 (0.961 to 0.975 over 3 seeds);
with `--model.mixers lru`, 0.959 (0.942 to 0.975). Chance, the most frequent of
the held-out digits, is 0.12. Logistic regression on the 64 pixels has 0.967,
and the nearest neighbour 0.992. Three seeds of S5 take 23 s of processor time,
and of LRU 39 s.

After the same updates, one seed of GLA has 0.69 (at a rate of 1e-2), of Mamba
0.77 and of the gated delta rule with an MLP 0.54. The last two are right for
0.98 and 0.94 of their last training images: they overfit 1,437 images.
"""

from jaxmodels.models import Classifier
from train.config import AdamW, Config, Sample
from train.data.tasks import Classes, Digits
from train.losses import Classification


def get_config() -> Config:
  """An epoch is 23 updates of 64 images."""
  return Config(
    model=Classifier(
      vocab_size=17,
      classes=10,
      width=32,
      depth=2,
      mixers=(("s5", {}),),
      mlp="none",
    ),
    data=Classes(task=Digits()),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=4e-3, warmup_steps=50),
    batch_size=64,
    steps=400,
    eval_every=400,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
