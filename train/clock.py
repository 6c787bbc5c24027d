"""The time that steps take."""

import time


class Clock:
  """Measures steps, leaving out compilation, validation and checkpoints.

  Args:
    beside: The clocks of runs that take turns with this one, which joins them:
      what one leaves out, all leave out.

  Attributes:
    compile_seconds: Seconds of a compilation that `read` has not returned yet.
  """

  def __init__(self, beside: list["Clock"] | None = None) -> None:
    self._all = [] if beside is None else beside
    self._all.append(self)
    self._since = time.perf_counter()
    self._steps = 0
    self._tokens = 0.0
    self.compile_seconds: float | None = None

  def leave_out(self, seconds: float) -> None:
    """Takes seconds out of the time since the last `read`."""
    for clock in self._all:
      clock._since += seconds

  def count(self, tokens: float) -> None:
    """Counts a step that has read some tokens."""
    self._steps += 1
    self._tokens += tokens

  def read(self) -> dict[str, float]:
    """Returns the timing since the last call, and resets the clock."""
    seconds = max(time.perf_counter() - self._since, 1e-9)
    values = {
      "step_seconds": seconds / max(self._steps, 1),
      "tokens_per_second": self._tokens / seconds,
    }
    if self.compile_seconds is not None:
      values["compile_seconds"] = self.compile_seconds
      self.compile_seconds = None
    self._since = time.perf_counter()
    self._steps, self._tokens = 0, 0.0
    return values
