"""Writes checkpoints, and reads them with checks.

A checkpoint holds the state, the data position and the config. A complete
checkpoint also has a list of all files with their sizes and checksums, so that
damage is detected before the checkpoint is used. Each process writes and reads
the shards of the state on its devices.

Only `train.checkpoint.arrays` uses orbax.
"""

from train.checkpoint.read import load
from train.checkpoint.resume import clear, latest, restore, restore_latest
from train.checkpoint.snapshot import Snapshot
from train.checkpoint.writer import Checkpoints
from train.files.checkpoint_folder import steps

__all__ = [
  "Checkpoints",
  "Snapshot",
  "clear",
  "latest",
  "load",
  "restore",
  "restore_latest",
  "steps",
]
