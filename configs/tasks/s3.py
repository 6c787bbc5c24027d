"""Words of 24 elements of the group S3, measured at 128, with DeltaProduct.

After each element the model names the product of the elements so far. Siems et
al. 2025, "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder
Products", arXiv:2502.10297: two reflections per token make the rotations of S3,
and one does not.

python -m train configs/tasks/s3.py --replicas 3 --workdir runs/s3

Expected accuracy: 0.9997 (0.9995 to 0.9998 over 3 seeds). Chance is 0.17. One
seed takes about 17 s of one core, with compilation.

The output table has to be separate from the embeddings (`tie_embeddings`): with
one table for both the same layer stays at 0.61 after 300 steps.
"""

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data.tasks import GroupWords
from train.losses import NextToken


def get_config() -> Config:
  """One layer without a channel mixer, two reflections per token."""
  mixer = {
    "heads": 4,
    "steps": 2,
    "kernel_width": None,
    "qk_activation": "identity",
    "output_gate": False,
  }
  return Config(
    model=LanguageModel(
      vocab_size=6,
      width=64,
      depth=1,
      mixers=(("delta_product", mixer),),
      mlp="none",
      tie_embeddings=False,
    ),
    data=GroupWords(
      group="S3",
      length=24,
      validation_length=128,
      train_examples=25_600,
      validation_examples=128,
    ),
    optimizer=AdamW(learning_rate=5e-3, warmup_steps=50, weight_decay=0.01),
    loss=NextToken(label_smoothing=0.1),
    batch_size=64,
    steps=400,
    log_every=50,
    eval_every=200,
    checkpoint_every=400,
    best_metric="accuracy",
    sample=Sample(length=0),
  )
