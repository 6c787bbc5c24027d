"""Disks and squares in photographs, pixel by pixel."""

from jaxmodels.models import UNet
from train.config import AdamW, Config, Sample
from train.data.tasks import TexturedShapes
from train.losses import Segmentation


def get_config() -> Config:
  """A U-shape of VMamba's blocks at two resolutions."""
  return Config(
    model=UNet(
      classes=3,
      widths=(24, 32),
      depth=1,
      mixers=(("selective_scan_2d", {"expand": 1, "state_width": 8}),),
      patch_size=4,
    ),
    data=TexturedShapes(validation_examples=160),
    loss=Segmentation(),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50),
    batch_size=16,
    steps=1000,
    eval_every=1000,
    checkpoint_every=1000,
    best_metric="dice",
    sample=Sample(length=0),
  )
