"""Synthetic tasks: data sets whose rows follow from a seed and a number.

`Parity(length=40)` is the data of a config. `SequenceTask` is their base class,
also for tasks of your own.
"""

from train.data.tasks.classes import Classes
from train.data.tasks.clouds import SceneClouds, ShapeClouds
from train.data.tasks.digits import Digits
from train.data.tasks.drawn import DrawnTask
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
from train.data.tasks.regression import LinearRegression
from train.data.tasks.series import Forecasts, SpokenVowels
from train.data.tasks.state_tracking import (
  CycleNavigation,
  GroupWords,
  ModularArithmetic,
  Parity,
)
from train.data.tasks.tables import Columns, Table
from train.data.tasks.task import SequenceTask
from train.data.tasks.timescales import DelayedMatch, NParity
from train.data.tasks.voices import VoiceMixtures

__all__ = [
  "AnBn",
  "BracketedArithmetic",
  "Classes",
  "Columns",
  "CycleNavigation",
  "DelayedMatch",
  "DigitImages",
  "Digits",
  "DrawnTask",
  "Dyck",
  "Forecasts",
  "FuzzyRecall",
  "GroupWords",
  "InductionHeads",
  "LinearRegression",
  "ListOps",
  "ModularArithmetic",
  "Mqar",
  "NParity",
  "Needle",
  "NoisyRecall",
  "Parity",
  "SceneClouds",
  "SelectiveCopying",
  "SequenceTask",
  "ShapeClouds",
  "SpokenVowels",
  "Table",
  "TexturedShapes",
  "VoiceMixtures",
]
