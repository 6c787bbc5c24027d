"""The digit in an image, with selective scans in four directions."""

from jaxmodels.models import ImageClassifier
from train.config import AdamW, Config, Sample
from train.data.tasks import DigitImages
from train.losses import Classification


def get_config() -> Config:
  """Two blocks of VMamba on 4 x 4 patches."""
  return Config(
    model=ImageClassifier(
      classes=10,
      patch_size=2,
      width=32,
      depth=2,
      mixers=(("selective_scan_2d", {"columns": 4, "state_width": 8}),),
    ),
    data=DigitImages(),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=50),
    batch_size=60,
    steps=400,
    eval_every=100,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
