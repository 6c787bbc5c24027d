"""Words of the group S4, first short and then long, with DeltaProduct.

After each element the model names the product of the elements so far. Siems et
al. 2025, "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder
Products", arXiv:2502.10297: with several reflections per token, a layer solves
the words of S4, A5 and S5. Three reflections make each permutation of four.

python -m train configs/tasks/words.py --replicas 3 --workdir runs/words

Training reads words of 8 elements for 300 steps, then words of 24 for 200.
Validation reads words of 128. Expected accuracy: 0.998 (0.995 to 0.999 over 3
seeds). Chance is 0.04. One seed takes about 25 s of one core, with compilation.

Two things make it learn: words that are short at first, and a bias of beta's
logits (`strength_bias`), with which all steps are nearly reflections from the
start.
"""

import functools
from collections.abc import Callable
from typing import Any

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Sample
from train.data import Stages
from train.data.tasks import GroupWords
from train.losses import NextToken


def staged(
  task: Callable[..., Any],
  reflections: int,
  stages: tuple[tuple[int, int], ...],
  batch_size: int = 64,
) -> Config:
  """One layer without a channel mixer, on short words and then on long ones.

  Args:
    task: A task of state tracking.
    reflections: Steps of the delta rule per token.
    stages: Words per row of 24 elements, and updates, one pair per stage.
    batch_size: Rows per update.
  """

  def words(documents: int, steps: int) -> Any:
    return task(
      length=24,
      documents=documents,
      validation_length=128,
      train_examples=steps * batch_size,
      validation_examples=128,
    )

  sources = tuple(words(*stage) for stage in stages)
  total = sum(steps for _, steps in stages)
  mixer = {
    "heads": 4,
    "steps": reflections,
    "kernel_width": None,
    "qk_activation": "identity",
    "output_gate": False,
    "strength_bias": 3.0,
  }
  return Config(
    model=LanguageModel(
      vocab_size=sources[0].vocab_size,
      width=64,
      depth=1,
      mixers=(("delta_product", mixer),),
      mlp="none",
      tie_embeddings=False,
    ),
    data=Stages(sources=sources),
    loss=NextToken(label_smoothing=0.1),
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=50, weight_decay=0.01),
    batch_size=batch_size,
    steps=total,
    log_every=50,
    eval_every=total // 2,
    checkpoint_every=total,
    best_metric="accuracy",
    sample=Sample(length=0),
  )


def get_config() -> Config:
  """Words of 8, then of 24; three reflections per token."""
  task = functools.partial(GroupWords, group="S4")
  return staged(task, reflections=3, stages=((3, 300), (1, 200)))
