"""Words of the group A5, first short and then long, with DeltaProduct.

The task and the paper are those of `words.py` (Siems et al. 2025,
arXiv:2502.10297). A5 is the smallest group whose words are complete for NC1.
Four reflections make each permutation of five.

python -m train configs/tasks/words_a5.py --workdir runs/words_a5

Training reads words of 4 elements for 500 steps, then words of 24 for 120.
Validation reads words of 128. Expected accuracy: 0.79 (one seed), and 1.00 on
the words of 24 in training. Chance is 0.017. The run takes about 64 s of one
core.
"""

from configs.tasks.words import words_of
from train.config import Config


def get_config() -> Config:
  """Words of 4, then of 24; four reflections per token."""
  stages = ((6, 500), (1, 120))
  return words_of("A5", 60, reflections=4, stages=stages, batch_size=80)
