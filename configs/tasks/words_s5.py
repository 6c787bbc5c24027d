"""Words of the group S5, longer and longer, with DeltaProduct.

The task and the paper are those of `words.py` (Siems et al. 2025,
arXiv:2502.10297). Four reflections make each permutation of five.

python -m train configs/tasks/words_s5.py --workdir runs/words_s5
"""

from configs.tasks.words import words_of
from train.config import Config


def get_config() -> Config:
  """Words of 2, 4, 8 and 24; four reflections per token."""
  stages = ((12, 500), (6, 200), (3, 150), (1, 450))
  return words_of("S5", 120, reflections=4, stages=stages, batch_size=96)
