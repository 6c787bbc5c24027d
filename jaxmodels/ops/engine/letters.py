"""Shapes in letters, such as "... L H K": one letter per axis.

"..." stands for batch axes, or for channels: any number of axes, as many in
each argument of a call. "*", at the end, stands for any further axes, which
may differ between arguments. "... L H | ... L H K" is either of the two: the
rank of the array decides. The size of a small letter divides that of its
capital: in "... L h K" each of h heads serves several of H.
"""

from typing import Any

Keys = tuple[Any, ...]


def alternatives(letters: str) -> list[Keys]:
  """The letters of each alternative, in order."""
  return [tuple(axes.split()) for axes in letters.split("|")]


def words(letters: str) -> str:
  """The same for a message: "[..., L, H] or [..., L, H, K]"."""
  return " or ".join(
    f"[{', '.join(axes)}]".replace(", *", ", ...")
    for axes in alternatives(letters)
  )


def count(letters: str, rank: int) -> int | None:
  """How many axes "..." stands for in an array of that rank.

  None if there is no "...", or if alternatives or "*" leave it open.
  """
  first, *others = alternatives(letters)
  if others or "..." not in first or "*" in first:
    return None
  return max(rank - len(first) + 1, 0)


def keys(letters: str, rank: int, batch: int) -> Keys | None:
  """A key for each axis of an array: its letter; of "...", its number.

  Args:
    letters: of the array.
    rank: of the array.
    batch: how many axes "..." stands for.

  Returns:
    The keys of the alternative that has this rank; None if none has it. Axes
    of "*" have the key None.
  """
  for axes in alternatives(letters):
    expanded = expand(axes, batch)
    if expanded[-1:] == ("*",) and rank >= len(expanded) - 1:
      named = expanded[:-1]
      return named + (None,) * (rank - len(named))
    if len(expanded) == rank:
      return expanded
  return None


def shared(letters: str) -> list[str]:
  """The small letters, whose sizes divide those of their capitals."""
  return [key for key in alternatives(letters)[0] if key.islower()]


def expand(axes: Keys, batch: int) -> Keys:
  """Numbers 0, 1, ... for the `batch` axes that "..." stands for."""
  if "..." not in axes:
    return axes
  at = axes.index("...")
  return (*axes[:at], *range(batch), *axes[at + 1 :])
