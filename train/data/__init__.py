"""The data: what to train on, and in which order.

`Text`, `Mqar` and `Tfds` are settings that open themselves:
`Text(length=512).open("train")` is a `Dataset`, examples by number, and
`Batches` stacks them in a random order that can be taken up anywhere.
"""

from train.data.arrays import Arrays
from train.data.baselines import baselines
from train.data.batches import Batches
from train.data.dataset import Codec, DataConfig, Dataset, Example, digest
from train.data.mixture import Mixture
from train.data.records import Records
from train.data.tasks.mqar import Mqar
from train.data.text import Text
from train.data.tfds import Tfds
from train.data.tokens import Tokens

__all__ = [
  "Arrays",
  "Batches",
  "Codec",
  "DataConfig",
  "Dataset",
  "Example",
  "Mixture",
  "Mqar",
  "Records",
  "Text",
  "Tfds",
  "Tokens",
  "baselines",
  "digest",
]
