"""Words of the group S5, first short and then long, with DeltaProduct.

python -m train configs/tasks/words_s5.py --workdir runs/words_s5

Chance
"""

from configs.tasks.words import words_of
from train.config import Config


def get_config() -> Config:
  """Words of 4, then of 24; four reflections per token."""
  return words_of(
    "S5", 120, reflections=4, documents=6, stages=(900, 200), batch_size=96
  )
