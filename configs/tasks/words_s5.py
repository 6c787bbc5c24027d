"""Words of the group S5, longer and longer, with DeltaProduct.

The task and the paper are those of `words.py` (Siems et al. 2025,
arXiv:2502.10297). Four reflections make each permutation of five.

python -m train configs/tasks/words_s5.py --replicas 3 --workdir runs/words_s5

Expected accuracy at 128 elements: 0.810 (0.623 to 0.942 over 3 seeds), and
0.696 (0.564 to 0.783) with 450 in place of 1,100 updates on words of 24, which
it then knew to 0.958 to 1.000. Chance is 0.008. One seed takes about 3 minutes
of one core.

Words of two elements come first, for they alone show all 14,400 products. On
words of 4 from the start, the layer still knew the first element alone after
300 steps.
"""

import functools

from configs.tasks.words import staged
from train.config import Config
from train.data.tasks import GroupWords


def get_config() -> Config:
  """Words of 2, 4, 8 and 24; four reflections per token."""
  stages = ((12, 500), (6, 200), (3, 200), (1, 1100))
  task = functools.partial(GroupWords, group="S5")
  return staged(task, reflections=4, stages=stages, batch_size=96)
