"""Words of the group A5, first short and then long, with DeltaProduct.

python -m train configs/tasks/words_a5.py --workdir runs/words_a5

Chance is 0.017.
"""

from configs.tasks.words import words_of
from train.config import Config


def get_config() -> Config:
  """Words of 4, then of 24; four reflections per token."""
  return words_of(
    "A5", 60, reflections=4, documents=6, stages=(500, 120), batch_size=80
  )
