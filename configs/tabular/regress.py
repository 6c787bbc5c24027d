"""TODO."""

from jaxmodels.models import TabularModel
from train.config import AdamW, Config, Sample
from train.data.tasks import Table
from train.losses import Regression


def get_config() -> Config:
  """The model of `configs/tabular/classify.py` with one number as output."""
  return Config(
    model=TabularModel(
      outputs=1,
      categories=(2,),
      width=16,
      depth=1,
      mixers=(("mamba", {"state_width": 8}),),
      mlp="none",
    ),
    data=Table(name="diabetes"),
    loss=Regression(pooling="none"),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=20, weight_decay=0.1),
    batch_size=64,
    steps=150,
    eval_every=150,
    checkpoint_every=150,
    best_metric="squared_error",
    sample=Sample(length=0),
  )
