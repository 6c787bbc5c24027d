"""Runs read from disk, grouped by config, and the table of their final values.

Runs whose configs differ only in seeds form one group. The report draws the
mean of a group and gives its final values as mean, least and most.
"""

from train.summary.groups import MOST_NAMED, Group, group_runs, short_names
from train.summary.runs import BITS, BITS_PER_BYTE, NOT_LISTED, RETURN, Run
from train.summary.tables import (
  final_values,
  markdown,
  markdown_row,
  with_range,
)

__all__ = [
  "BITS",
  "BITS_PER_BYTE",
  "MOST_NAMED",
  "NOT_LISTED",
  "RETURN",
  "Group",
  "Run",
  "final_values",
  "group_runs",
  "markdown",
  "markdown_row",
  "short_names",
  "with_range",
]
