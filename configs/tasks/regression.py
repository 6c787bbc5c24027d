"""Linear regression in context with one Mesa layer.

    python -m train configs/tasks/regression.py --replicas 3 --workdir runs/mesa

The task: a row gives pairs of x and y = w^T x + noise with a new w, and each
position predicts the next y (Garg et al. 2022, arXiv:2208.01066). The claim: a
Mesa layer solves the least squares of the pairs before, so one layer is near
ridge regression (von Oswald et al. 2023, arXiv:2309.05858; 2025,
arXiv:2506.05233). The metric "explained" is 1 for ridge regression and 0 for a
prediction of 0, which is chance.

Expect 0.93 (0.91 to 0.94 over three seeds) in 1.6 minutes of processor time for
the three seeds together, or 45 seconds for one. The best delta rule explains
0.89, and the best step of gradient descent 0.70: `python -m
benchmarks.regression` compares mixers with these algorithms.
"""

from jaxmodels.models import VectorModel
from train.config import AdamW, Config, Sample
from train.data.tasks import LinearRegression
from train.losses import Explained


def get_config() -> Config:
  """Eight dimensions, 32 pairs per row, one layer."""
  data = LinearRegression(length=32, dims=8, noise=0.25, train_examples=40_000)
  return Config(
    model=VectorModel(
      input_width=data.width,
      output_width=1,
      width=64,
      depth=1,
      mixers=(("mesa", {"heads": 2}),),
      mlp="none",
    ),
    data=data,
    loss=Explained(),
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=50),
    batch_size=64,
    steps=600,
    eval_every=300,
    checkpoint_every=600,
    best_metric="explained",
    sample=Sample(length=0),
  )
