"""Replicas: runs of one config with other seeds or rates, in one process.

Each replica is an ordinary run in a directory of its own, `WORKDIR/seed=0` and
so on, with its own metrics, checkpoints and config. So every command for a run
works on a replica too, and the report takes the directory that holds them all.

The replicas advance together, one step each per round. Their steps are computed
in one of two modes, which give the same numbers up to rounding:

  turn  one program, called once per replica, as a run of its own calls it; with
        one learning rate, the numbers are those of separate runs, bit for bit
  vmap  one program for all replicas, whose states are stacked

Several learning rates are arguments of the program. XLA rounds an argument
differently from a constant, in the last bit.

A measurement at the start chooses the mode, unless the user does. A run may
resume in the other mode; in the same mode it resumes bit for bit.
"""

from train.replicas.members import replicas_of
from train.replicas.run import run

__all__ = ["replicas_of", "run"]
