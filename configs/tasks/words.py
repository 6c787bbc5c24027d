"""Words of the group S4, from short to long, with DeltaProduct.

python -m train configs/tasks/words.py --replicas 3 --workdir runs/words

WORDSNUMBERS Chance is 0.04.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Stages
from train.data.tasks import GroupWords
from train.losses import NextToken


def words(documents: int, examples: int) -> GroupWords:
  """Rows of 24 elements that are cut into words."""
  return GroupWords(
    group="S4",
    length=24,
    documents=documents,
    validation_length=128,
    train_examples=examples,
    validation_examples=128,
  )


def get_config() -> Config:
  """One layer without a channel mixer, three reflections per token."""
  mixer = {
    "heads": 4,
    "steps": 3,
    "kernel_width": None,
    "qk_activation": "identity",
    "output_gate": False,
    "strength_bias": 3.0,
  }
  return Config(
    model=LanguageModel(
      vocab_size=24,
      width=64,
      depth=1,
      mixers=(("delta_product", mixer),),
      mlp="none",
      tie_embeddings=False,
    ),
    data=Stages(sources=(words(3, 19_200), words(1, 12_800))),
    loss=NextToken(label_smoothing=0.1),
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=50, weight_decay=0.01),
    batch_size=64,
    steps=500,
    log_every=50,
    eval_every=250,
    checkpoint_every=500,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
