"""Losses: what a run minimises, and the metrics that it reports.

A loss is a frozen dataclass with `sums(outputs, batch)`. Its sums are added
over microbatches and devices, and divided once by the summed weight: a mean of
means would give the tokens of short documents, and padded rows, too much
weight. A batch is a dictionary of arrays, or of dictionaries and tuples of
arrays, whose first axis is that of the examples:

  inputs       what the model reads
  segment_ids  optional, [B, L]: see `LanguageModel`
  targets      what the loss compares the outputs with
  weights      how much each example `[B]`, or token `[B, L]`, counts
"""

from train.losses.base import Batch, Loss, Sums
from train.losses.distillation import Distillation
from train.losses.images import Reconstruction, Segmentation
from train.losses.separation import Separation
from train.losses.sequences import Classification, Explained, Regression
from train.losses.tokens import NextToken

__all__ = [
  "Batch",
  "Classification",
  "Distillation",
  "Explained",
  "Loss",
  "NextToken",
  "Reconstruction",
  "Regression",
  "Segmentation",
  "Separation",
  "Sums",
]
