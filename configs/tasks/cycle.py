"""The place on a cycle of five after many steps, with DeltaProduct.

Each token stays, goes forward or goes back; the model names the place after
each. Deletang et al. 2023, "Neural Networks and the Chomsky Hierarchy",
arXiv:2207.02098. A step is a rotation, which two reflections make (Siems et al.
2025, arXiv:2502.10297); a diagonal transition of real numbers is none.

python -m train configs/tasks/cycle.py --replicas 3 --workdir runs/cycle

Training reads walks of 8 steps for 400 updates, then walks of 24 for 400.
Validation reads walks of 128. Expected accuracy: 0.991 (0.973 to 1.000 over 3
seeds); after 300 and 200 updates it was 0.969, and 0.555 after the 400 of
`s3.py`. Chance is 0.2. Three seeds take 170 s of one core, with compilation.
"""

from configs.tasks.words import staged
from train.config import Config
from train.data.tasks import CycleNavigation


def get_config() -> Config:
  """The layer and the optimizer of `words.py`, with two reflections."""
  return staged(CycleNavigation, reflections=2, stages=((3, 400), (1, 400)))
