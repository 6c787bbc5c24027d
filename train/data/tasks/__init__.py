"""Synthetic tasks: data sets whose rows follow from a seed and a number.

`Parity(length=40)` is the data of a config. `SequenceTask` is their base class,
also for tasks of your own.
"""

from train.data.tasks.digits import Digits
from train.data.tasks.images import DigitImages, TexturedShapes
from train.data.tasks.languages import AnBn, BracketedArithmetic, Dyck
from train.data.tasks.listops import ListOps
from train.data.tasks.mqar import Mqar
from train.data.tasks.recall import (
  FuzzyRecall,
  InductionHeads,
  Needle,
  NoisyRecall,
  SelectiveCopying,
)
from train.data.tasks.state_tracking import (
  CycleNavigation,
  GroupWords,
  ModularArithmetic,
  Parity,
)
from train.data.tasks.task import SequenceTask

__all__ = [
  "AnBn",
  "BracketedArithmetic",
  "CycleNavigation",
  "DigitImages",
  "Digits",
  "Dyck",
  "FuzzyRecall",
  "GroupWords",
  "InductionHeads",
  "ListOps",
  "ModularArithmetic",
  "Mqar",
  "Needle",
  "NoisyRecall",
  "Parity",
  "SelectiveCopying",
  "SequenceTask",
  "TexturedShapes",
]
