"""TODO."""

from jaxmodels.models import TabularModel
from train.config import AdamW, Config, Sample
from train.data.tasks import Table
from train.losses import Classification


def get_config() -> Config:
  """Mambular: one layer of Mamba over the columns."""
  return Config(
    model=TabularModel(
      outputs=2,
      width=16,
      depth=1,
      mixers=(("mamba", {"state_width": 8}),),
      mlp="none",
    ),
    data=Table(name="breast_cancer"),
    loss=Classification(pooling="none"),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=20, weight_decay=0.1),
    batch_size=64,
    steps=150,
    eval_every=150,
    checkpoint_every=150,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
