"""Traces a range of steps: `--profile-steps=FIRST,LAST`."""

import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jax

from train.errors import UserError, one_line


def parse_steps(text: str, steps: int) -> range:
  """Reads the value of `--profile-steps`.

  Steps are numbered as in `metrics.jsonl`: the first is 1.

  Args:
    text: "FIRST,LAST".
    steps: Number of steps of the run.

  Returns:
    FIRST, ..., LAST - 1.

  Raises:
    UserError: The text has a wrong format, or the run has no step FIRST.
  """
  found = re.fullmatch(r"\s*([0-9]{1,18})\s*,\s*([0-9]{1,18})\s*", text)
  shown = one_line(text, 80)
  first, last = (int(number) for number in found.groups()) if found else (0, 0)
  if not 1 <= first < last:
    raise UserError(
      f"--profile-steps={shown} must be FIRST,LAST with 1 <= FIRST < LAST, such"
      " as 10,20, which traces steps 10 to 19"
    )
  if first > steps:
    raise UserError(
      f"--profile-steps={shown} begins after the last step, which is {steps}"
    )
  return range(first, last)


class Profiler:
  """Writes a trace of some steps, and prints its path.

  Leaving the context ends a running trace, so a run that ends or fails during
  these steps still writes a trace of the steps it completed.

  Args:
    steps: Numbers of consecutive steps; empty for no trace.
    folder: Directory of the trace; made if it does not exist.
    log: Takes lines for the user.
  """

  def __init__(self, steps: range, folder: str, log: Callable[[str], None]):
    self._steps = steps
    self._folder = folder
    self._log = log
    self._traced: list[int] = []
    self._running = False

  def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
    """Returns a context that the trace shows as step `number`."""
    if self._running:
      self._traced.append(number)
    return jax.profiler.StepTraceAnnotation("train", step_num=number)

  def start_before(self, step: int, state: Any) -> float:
    """Starts the trace if `step` is the first of its steps.

    Args:
      step: The number of the next step.
      state: The state before the step. This waits for it, so that no earlier
        step is traced.

    Returns:
      Seconds needed to start the trace.
    """
    if self._running or step not in self._steps:
      return 0.0
    jax.block_until_ready(state)
    begun = time.perf_counter()
    options = jax.profiler.ProfileOptions()
    # A trace has at most a million events, and calls of Python functions are
    # twenty times as many as all others.
    options.python_tracer_level = 0
    jax.profiler.start_trace(
      self._folder, create_perfetto_trace=True, profiler_options=options
    )
    self._running = True
    return time.perf_counter() - begun

  def stop_before(self, step: int | None, state: Any) -> float:
    """Ends the trace if `step` is not one of its steps.

    Args:
      step: The number of the next step; None after the last step.
      state: The state after the previous step. This waits for it.

    Returns:
      Seconds needed to end the trace.
    """
    if not self._running or step in self._steps:
      return 0.0
    jax.block_until_ready(state)
    begun = time.perf_counter()
    self._stop()
    return time.perf_counter() - begun

  def _stop(self) -> None:
    jax.profiler.stop_trace()
    self._running = False
    if self._traced:
      first, last = self._traced[0], self._traced[-1]
      self._log(
        f"profile of steps {first} to {last} in {self._folder}: view it with"
        f" `pip install xprof; xprof --logdir={self._folder}`, or open its"
        " plugins/profile/*/perfetto_trace.json.gz in https://ui.perfetto.dev"
      )

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if self._running:
      self._stop()
