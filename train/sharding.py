"""How the pure step meets the devices.

A strategy lifts `train_step` and `eval_step`, and moves states and batches to
where these want them. Every strategy computes the same numbers.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import chex
import jax
import numpy as np

from jaxmodels.ops import checks
from train.errors import CheckError, one_line
from train.state import TrainState
from train.step import Batch, Task, eval_step, train_step


@dataclasses.dataclass(frozen=True)
class Strategy:
  """What the loop asks of a strategy.

  Attributes:
    devices: How many share a batch.
    prepare: Moves a state to the devices.
    batch: Moves a batch, arrays `[B, L]`, to the devices.
    step: Does one update: state and batch to state and metrics. The state
      passed in is used up.
    evaluate: State and batch to the sums of `eval_step` over all of it.
    fetch: Copies a state to the host, as numpy arrays.
  """

  devices: int
  prepare: Callable[[TrainState], Any]
  batch: Callable[[Mapping[str, np.ndarray]], Any]
  step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
  evaluate: Callable[[Any, Any], dict[str, Any]]
  fetch: Callable[[Any], TrainState]


def _copy(state: Any) -> Any:
  # A copy and not a view: on a CPU `np.asarray` shows the device's own
  # memory, which the next step is free to write over.
  return jax.tree.map(np.array, jax.device_get(state))


# Chex puts the message of a check among its own words.
_MESSAGE = re.compile(r"Custom message: (.*?)\.? \[failed at", re.DOTALL)


@contextlib.contextmanager
def _named_checks() -> Iterator[None]:
  """Turns the error of a check into one that says which it is."""
  try:
    yield
  except AssertionError as error:
    found = _MESSAGE.search(str(error))
    name = found[1] if found else one_line(error)
    raise CheckError(f"a check failed: {name}") from error


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
  """Makes a lifted function run its numeric checks, and wait for them."""
  chexified = chex.chexify(function, async_check=False)

  @functools.wraps(function)
  def run(*args: Any) -> Any:
    # The switch is read while tracing, which the first call does.
    with checks.numerics(True), _named_checks():
      return chexified(*args)

  return run


def _jit(task: Task, debug: bool) -> Strategy:
  """One device: the default one."""

  def step(state: TrainState, batch: Batch) -> Any:
    return train_step(task, state, batch)

  def evaluate(state: TrainState, batch: Batch) -> Any:
    return eval_step(task.model, state.params, batch)

  if debug:
    run_step = _checked(jax.jit(step))
    run_evaluate = _checked(jax.jit(evaluate))
  else:
    run_step = jax.jit(step, donate_argnums=0)
    run_evaluate = jax.jit(evaluate)
  return Strategy(
    devices=1,
    prepare=jax.device_put,
    batch=jax.device_put,
    step=run_step,
    evaluate=run_evaluate,
    fetch=_copy,
  )


def _pmap(task: Task, debug: bool) -> Strategy:
  """All local devices: the state on each, the batch split among them."""
  count = jax.local_device_count()
  lift = functools.partial(jax.pmap, axis_name="batch")

  def step(state: TrainState, batch: Batch) -> Any:
    return train_step(task, state, batch, "batch")

  def evaluate(state: TrainState, batch: Batch) -> Any:
    return jax.lax.psum(eval_step(task.model, state.params, batch), "batch")

  def split(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
      name: x.reshape(count, x.shape[0] // count, *x.shape[1:])
      for name, x in batch.items()
    }

  def replicate(state: TrainState) -> Any:
    copies = jax.tree.map(
      lambda x: np.broadcast_to(x, (count, *np.shape(x))), state
    )
    return jax.pmap(lambda x: x)(copies)

  # Metrics are equal on every device after the sum: one copy comes back.
  if debug:
    run_step = _checked(lift(step, out_axes=(0, None)))
    run_evaluate = _checked(lift(evaluate, out_axes=None))
  else:
    run_step = lift(step, out_axes=(0, None), donate_argnums=0)
    run_evaluate = lift(evaluate, out_axes=None)
  return Strategy(
    devices=count,
    prepare=replicate,
    batch=split,
    step=run_step,
    evaluate=run_evaluate,
    fetch=lambda state: _copy(jax.tree.map(lambda x: x[0], state)),
  )


def make_strategy(name: str, task: Task, *, debug: bool = False) -> Strategy:
  """Builds a strategy.

  Args:
    name: "jit" or "pmap".
    task: What a step is made of.
    debug: Whether to check every value inside the step.
  """
  return {"jit": _jit, "pmap": _pmap}[name](task, debug)


def device_count(name: str) -> int:
  """Returns how many devices share a batch under a strategy."""
  return jax.local_device_count() if name == "pmap" else 1
