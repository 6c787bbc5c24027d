"""Training data and its order.

`Text`, `Mqar` and `Tfds` are settings: `Text(length=512).open("train")` returns
a `Dataset`, a sequence of examples. `Batches` stacks examples in a random order
and can resume at any position.
"""

from train.data.arrays import Arrays
from train.data.baselines import baselines
from train.data.batches import Batches
from train.data.dataset import Codec, DataConfig, Dataset, Example, digest
from train.data.mixture import Mixture
from train.data.records import Records
from train.data.stages import Stages
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
  "Stages",
  "Text",
  "Tfds",
  "Tokens",
  "baselines",
  "digest",
]
