"""Words of the group A5, first short and then long, with DeltaProduct.

The task and the paper are those of `words.py` (Siems et al. 2025,
arXiv:2502.10297). A5 is the smallest group whose words are complete for NC1.
Four reflections make each permutation of five.

python -m train configs/tasks/words_a5.py --replicas 3 --workdir runs/words_a5

Training reads words of 4 elements for 500 steps, then words of 8 for 150 and of
24 for 250. Validation reads words of 128. Expected accuracy: 0.995 (0.987 to
1.000 over 3 seeds); with 120 steps of words of 24 right after the 500 it was
0.79 (one seed). Chance is 0.017. One seed takes about two minutes of one core.
"""

import functools

from configs.tasks.words import staged
from train.config import Config
from train.data.tasks import GroupWords


def get_config() -> Config:
  """Words of 4, of 8, and of 24; four reflections per token."""
  stages = ((6, 500), (3, 150), (1, 250))
  task = functools.partial(GroupWords, group="A5")
  return staged(task, reflections=4, stages=stages, batch_size=80)
