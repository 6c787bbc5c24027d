"""Which images show a digit that the model was not trained on?

python -m train configs/vision/anomaly.py --workdir runs/vision-anomaly
  --data.left-out 9

Expect an area under the ROC curve ("auroc") of 0.92 for the digit 9, after
about one minute of one core. Baselines on the same 600 held-out images are the
squared distance to the mean of the training images, to the nearest mean of a
training class, to the reconstruction by ten principal components (of 5, 10, 20
and 30 the best on average over all ten digits), and to the nearest training
image:

  left out  this config (seeds)           mean  class mean    PCA  nearest image
  0         0.979 (0)                    0.607       0.905  0.798          0.999
  4         0.960 (0)                    0.889       0.950  0.965          0.999
  9         0.938, 0.905, 0.919 (0-2)    0.538       0.843  0.722          0.975

The decoder is better than the means of classes, and than principal components
for two of the three digits. It does not reach the nearest training image, for
which all of the 1,070 to 1,078 training images must be stored.
"""

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
