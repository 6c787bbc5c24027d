"""Handwritten digits, read pixel by pixel in one random order, with S5.

All images have the same order of pixels, so neighbours in the image are far
apart in the sequence: permuted sequential MNIST (Le et al. 2015,
arXiv:1504.00941) on the images of `digits.py`.

python -m train configs/tasks/digits_permuted.py --replicas 3 --workdir runs/p

It needs scikit-learn: the extra `tasks`.

Expected accuracy on 360 held-out images: 0.956 (0.950 to 0.961 over 3 seeds).
Chance is 0.12. Logistic regression on the 64 pixels, which does not see their
order, has 0.967. Three seeds take 23 s of processor time.
"""

import dataclasses

from configs.tasks import digits
from train.config import Config
from train.data.tasks import Classes, Digits


def get_config() -> Config:
  """The run of `digits.py`, with other data."""
  data = Classes(task=Digits(permuted=True))
  return dataclasses.replace(digits.get_config(), data=data)
