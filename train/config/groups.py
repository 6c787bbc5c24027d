"""Parameters chosen by their path and rank."""

import dataclasses
import fnmatch
from collections.abc import Iterable

from train.config.checks import Fields, as_float32
from train.flags import annotations
from train.parameters import rank


def matches(path: str, patterns: Iterable[str]) -> bool:
  """Says whether a path is one of some patterns.

  Args:
    path: The names of a parameter, joined by slashes.
    patterns: As of a shell: `*` stands for any text, slashes included, `?` for
      one character and `[ab]` for one of several. A path is compared as a
      whole, with a slash in front, so that `*/kernel` means every parameter
      that is called "kernel". No pattern takes long to compare, whoever wrote
      it.
  """
  return any(fnmatch.fnmatchcase(f"/{path}", pattern) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters with a learning rate and a weight decay of their own.

  A parameter belongs to the first group of the optimizer that it matches.

  Attributes:
    paths: Patterns of paths, as of a shell: "*/A_log" is every parameter of
      the name A_log. One that matches is enough.
    min_rank: Parameters with fewer axes do not match. The axis of layers that
      a scan over layers adds does not count.
    rate: Factor of the learning rate.
    decay: Whether the parameters decay; None for what `decay_paths` of the
      optimizer says.
  """

  paths: tuple[str, ...]
  min_rank: int = 0
  rate: float = 1.0
  decay: bool | None = None

  def has(self, path: str, shape: tuple[int, ...]) -> bool:
    """Says whether a parameter matches.

    Args:
      path: Its names, joined by slashes.
      shape: Its shape, with the axis of layers if there is one.
    """
    return rank(path, shape) >= self.min_rank and matches(path, self.paths)

  def check(self, key: str) -> None:
    """Raises a UserError that names the first field with a wrong value."""
    annotations.check(self, f"config.{key}")
    fields = Fields(self, key)
    fields.require(bool(self.paths), "paths", "at least one pattern")
    fields.count("min_rank")
    is_factor = 0 <= as_float32(self.rate) < float("inf")
    fields.require(is_factor, "rate", "0 or more and finite in float32")


# The parameters that decide how long a state remembers: the decay rates, the
# steps, the state matrices, and the input matrices. S4 and S5 train these at a
# lower rate and without decay (Gu et al. 2021, arXiv:2111.00396; Smith et al.
# 2022, arXiv:2208.04933, whose code divides the rate by 4); Mamba and its
# successors leave out the decay.
STATE_SPACE = Group(
  paths=(
    "*/A_log",
    "*/dt_bias",
    "*/log_decay_rate",
    "*/frequency",
    "*/log_frequency",
    "*/log_step",
    "*/step_logit",
    "*/low_rank",
    "*/A",
    "*/B",
  ),
  rate=0.25,
  decay=False,
)
