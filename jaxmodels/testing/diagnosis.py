"""Infers the cause of failed comparisons.

The functions are pure; `check_op` and `check_mixer` gather the facts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxmodels.testing.cases import SHARDED

# One name per pattern; a report begins with it.
LOST_CARRY = "lost carry"
MISSING_DECAY = "missing decay"
FUTURE = "reads the future"
STRICT_MASK = "off-by-one mask"
LEAKED_RESET = "leaked reset"
WRONG_GRADIENT = "wrong gradient"
OTHER_WAY = "step, read_and_advance or kernel disagrees with read and advance"
UNKNOWN = "no known pattern"


class Outcome(NamedTuple):
  """One comparison of a result with the definition.

  Attributes:
    form: of the op.
    length: L.
    resets: the name of the segment ids.
    has_resets: whether a segment starts anywhere.
    dtype: of the arguments.
    what: "y", "final_state..." or "gradient of ...".
    error: relative to the definition in float64.
    tolerance: the largest allowed error.
    first: the first wrong token, where the result has an axis of tokens.
  """

  form: str
  length: int
  resets: str
  has_resets: bool
  dtype: str
  what: str
  error: float
  tolerance: float
  first: int | None = None

  @property
  def wrong(self) -> bool:
    """Whether the error is more than allowed."""
    return not self.error <= self.tolerance

  @property
  def is_gradient(self) -> bool:
    """Whether this is a gradient, not a value."""
    return self.what.startswith("gradient")


class Influence(NamedTuple):
  """Which outputs move when an argument is halved at one token.

  Attributes:
    argument: its name.
    token: where it was changed.
    moved: [L] bool, the outputs of the op that moved.
    wanted: [L] bool, the outputs of the definition that moved.
  """

  argument: str
  token: int
  moved: np.ndarray
  wanted: np.ndarray


class Probes(NamedTuple):
  """Results of further calls of a wrong form.

  Attributes:
    right_without: arguments that, once set to zero, make the values right.
    influences: of single tokens on the outputs.
  """

  right_without: Sequence[str] = ()
  influences: Sequence[Influence] = ()


def diagnose(
  outcomes: Iterable[Outcome], probes: Probes, chunk: int
) -> tuple[str, str]:
  """Guesses why one form of an op is wrong.

  Args:
    outcomes: all comparisons of that form, right and wrong.
    probes: further calls of it.
    chunk: tokens per chunk.

  Returns:
    the pattern, and a sentence with the evidence for it.
  """
  outcomes = list(outcomes)
  values = [o for o in outcomes if not o.is_gradient]
  wrong = [o for o in values if o.wrong]
  if not wrong:
    return WRONG_GRADIENT, (
      "values are right: look for a derivative rule written by hand (`tangent` "
      "is one), a stop_gradient, or a mask after an exponential"
    )
  if all(o.has_resets for o in wrong) and not all(o.has_resets for o in values):
    return LEAKED_RESET, (
      "wrong only where a segment starts: `masks` is ignored somewhere"
    )
  return (
    _mask(probes.influences)
    or _decay(probes, wrong, chunk)
    or _carry(probes, values, chunk)
    or (UNKNOWN, "wrong within the first chunk already, whatever the resets")
  )


# Forms that may go another way than the four functions, and the form that does
# with them what these would: with chunks of one token, or of several.
_BY_FOUR_FUNCTIONS = {
  "recurrent": "associative",
  "chunked": "chunk_parallel",
  SHARDED: "chunk_parallel",
  "pallas": "chunk_parallel",
}


def other_way(outcomes: Iterable[Outcome]) -> dict[str, tuple[str, str]]:
  """Finds forms that are wrong though the four functions are right.

  Args:
    outcomes: all comparisons of all forms.

  Returns:
    for each such form the pattern, and a sentence with the evidence for it.
  """
  right: dict[str, bool] = {}
  for o in outcomes:
    if not o.is_gradient:
      right[o.form] = right.get(o.form, True) and not o.wrong
  return {
    form: (
      OTHER_WAY,
      f'"{other}" has the same chunks, goes by the four functions alone and is '
      "right: the optional functions of the family were made for another "
      "`summarize`, `advance` or `read`",
    )
    for form, other in _BY_FOUR_FUNCTIONS.items()
    if not right.get(form, True) and right.get(other, False)
  }


def _mask(influences: Sequence[Influence]) -> tuple[str, str] | None:
  """A causal mask that shows too much or too little."""
  for one in influences:
    early = np.flatnonzero(one.moved[: one.token])
    if early.size:
      return FUTURE, (
        f"{one.argument} of token {one.token} moves y of token {early[-1]}: "
        "a causal mask is off"
      )
  for one in influences:
    if one.wanted[one.token] and not one.moved[one.token]:
      return STRICT_MASK, (
        f"{one.argument} of token {one.token} does not move y of the same "
        "token: the mask is strict where it should include the token itself"
      )
  return None


def _decay(
  probes: Probes, wrong: Sequence[Outcome], chunk: int
) -> tuple[str, str] | None:
  """Wrong by what a decay should do."""
  names = [name for name in probes.right_without if "decay" in name]
  if not names:
    return None
  firsts = [o.first for o in wrong if o.what == "y" and o.first is not None]
  place = "within a chunk (`read`)"
  if chunk > 1 and firsts and min(firsts) >= chunk:
    place = "between chunks (`summarize`, `compose` or `advance`)"
  elif chunk == 1:
    place = "between tokens"
  return MISSING_DECAY, f"right once {names[0]} is zero: lost {place}"


def _carry(
  probes: Probes, values: Sequence[Outcome], chunk: int
) -> tuple[str, str] | None:
  """Wrong by what should come from before the chunk."""
  if "initial_state" in probes.right_without:
    return LOST_CARRY, "right once initial_state is zero: it is ignored"
  outputs = [o for o in values if o.what == "y" and not o.has_resets]
  firsts = [o.first for o in outputs if o.wrong and o.first is not None]
  if firsts and min(firsts) >= chunk:
    return LOST_CARRY, (
      f"y is right up to token {min(firsts) - 1} and wrong from the next "
      f"chunk on (chunks of {chunk}): the state between chunks is wrong"
    )
  if not any(o.wrong for o in values if o.what == "y"):
    return LOST_CARRY, "y is right and the state that leaves is not"
  return None


def diagnose_mixer(
  wrong: np.ndarray, starts: Sequence[tuple[int, int]], part: str
) -> str:
  """Guesses why a mixer is wrong behind cuts or starts of documents.

  Args:
    wrong: [B, L] bool.
    starts: (row, token) where a part starts, ascending in a row.
    part: "piece" (the state should be carried there), "document" (it should
      be dropped), or "".

  Returns:
    "; pattern: evidence", or nothing.
  """
  if not part or not wrong.any():
    return ""
  reach = _reach(wrong, starts)
  pattern = LOST_CARRY if part == "piece" else LEAKED_RESET
  if reach is None:
    return f"; {pattern}: wrong to the end of a {part}, as by a memory"
  return (
    f"; {pattern}: wrong only in the first {reach} tokens of a {part}, as by "
    "the tail of a convolution"
  )


def _reach(wrong: np.ndarray, starts: Sequence[tuple[int, int]]) -> int | None:
  """How many tokens behind a start are wrong; None if up to the next start."""
  reach = 0
  for row, start in starts:
    later = [t for r, t in starts if r == row and t > start]
    stop = min(later, default=wrong.shape[1])
    at = np.flatnonzero(wrong[row, start:stop])
    if at.size and at[-1] + 1 == stop - start:
      return None
    reach = max(reach, int(at[-1]) + 1 if at.size else 0)
  return reach
