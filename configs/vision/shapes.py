"""Disks and squares in photographs, pixel by pixel.

python -m train configs/vision/shapes.py --workdir runs/vision-shapes

Expect a Dice coefficient of 0.598 on 160 held-out images (seeds 0 to 2: 0.582,
0.607 and 0.604), after about one minute of one core. The baselines are U-nets
with `Convolutions(1)` as mixers and about as many parameters, after as many
steps. The first has no channel mixers and the widths (23, 30), and the second
has the channel mixers of this config and the widths (20, 25):

  U-shape of                   parameters   Dice (seeds 0 to 2)
  selective_scan_2d                44,088  0.598
  Convolutions                     43,724  0.475 (0.456, 0.501, 0.467)
  Convolutions, channel mixers     44,353  0.542 (0.526, 0.542, 0.559)

All still improve after these 16,000 images, and a run with the program already
compiled takes 42 seconds of one core, and with convolutions 12 and 15, so this
does not compare them at equal time.
"""

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
