"""Which of five surfaces is each point of a scene on?

python -m train configs/points/voxels.py --workdir runs/points-voxels

A scene has three upright surfaces of 100 points each, which may touch. Expect
71.0% of the points of 500 held-out scenes right (70.4 to 71.5 over 3 seeds),
after two minutes of one core. Baselines, on the first 200 of these scenes
(`python -m benchmarks.points`), with chance at 20%:

  classifier                                                     accuracy
  logistic regression of the shape of neighbourhoods                42.5%
  15 nearest of 60,000 training points, same descriptors            49.1%
  this config, 75,877 parameters, 4,000 scenes                      71.0%

A neighbourhood is described by the spread of its 8, 32 and 100 points.
"""

from jaxmodels.models import VoxelClassifier
from train.config import AdamW, Config, Sample
from train.data.tasks import SceneClouds
from train.losses import Classification


def get_config() -> Config:
  """Four layers of LION on the voxels of scenes."""
  return Config(
    model=VoxelClassifier(
      classes=5,
      width=32,
      depth=4,
      mixers=(("mamba", {"expand": 1, "state_width": 8}),),
      mlp="none",
      side=12,
      per_point=True,
    ),
    data=SceneClouds(points=300, kinds=5, upright=True),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=50),
    batch_size=8,
    steps=500,
    eval_every=250,
    checkpoint_every=500,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
