"""Which images show a digit that the model was not trained on?"""

from jaxmodels.models import AnomalyDetector
from train.config import AdamW, Config, Sample
from train.data.tasks import DigitImages
from train.losses import Reconstruction


def get_config() -> Config:
  """Nine digits in training, ten in validation."""
  return Config(
    model=AnomalyDetector(
      classes=10,
      widths=(24, 32),
      depth=1,
      bottleneck=8,
      mixers=(
        (
          "selective_scan_2d",
          {
            "curve": "hilbert",
            "directions": 8,
            "expand": 1,
            "state_width": 8,
          },
        ),
      ),
      patch_size=2,
    ),
    data=DigitImages(left_out=9, validation_examples=600),
    loss=Reconstruction(),
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=50),
    batch_size=60,
    steps=300,
    eval_every=100,
    checkpoint_every=300,
    best_metric="loss",
    sample=Sample(length=0),
  )
