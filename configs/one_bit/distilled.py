"""The model of `student.py`, which imitates a full-precision teacher.

python -m train configs/one_bit/distilled.py --workdir runs/one_bit/distilled

It needs the run runs/one_bit/teacher; the docstring of `student.py` has the
command, and the results of all three: expect 2.360 bits per byte, where the
same student without a teacher has 2.434, and its teacher 2.072. As in Bi-Mamba
(arXiv:2411.11843) the targets are the teacher's probabilities alone. Departure:
the teacher has the architecture of the student, with twice as many updates.
"""

import dataclasses

from configs.one_bit import student
from train.config import Config
from train.losses import Distillation


def get_config() -> Config:
  """Cross-entropy with the distribution of the teacher alone."""
  return dataclasses.replace(
    student.get_config(),
    loss=Distillation(teacher="runs/one_bit/teacher", share=1.0),
  )
