"""How the pure step meets the devices.

A strategy lifts `train_step` and `eval_step`, and moves states and batches to
where these want them. Every strategy computes the same numbers.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import chex
import jax
import numpy as np

from jaxmodels.ops import checks
from train.errors import CheckError, one_line
from train.state import TrainState
from train.step import Task, eval_step, train_step

HostBatch = Mapping[str, np.ndarray]


class Strategy(Protocol):
  """What the loop asks of a strategy."""

  @property
  def devices(self) -> int:
    """Devices that share a batch."""

  def prepare(self, state: TrainState) -> Any:
    """Moves a state to the devices."""

  def batch(self, batch: HostBatch) -> Any:
    """Moves arrays `[B, L]` to the devices."""

  def step(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Does one update; the state passed in is used up."""

  def evaluate(self, state: Any, batch: Any) -> dict[str, Any]:
    """Returns the sums of `eval_step` over the whole batch."""

  def fetch(self, state: Any) -> TrainState:
    """Copies a state to the host, as numpy arrays."""


def _copy(state: Any) -> Any:
  # A copy and not a view: on a CPU `np.asarray` shows the device's own
  # memory, which the next step is free to write over.
  return jax.tree.map(np.array, jax.device_get(state))


@contextlib.contextmanager
def _one_line_checks() -> Iterator[None]:
  try:
    yield
  except (AssertionError, ValueError, jax.errors.JaxRuntimeError) as error:
    raise CheckError(f"a check failed: {one_line(error)}") from error


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
  """Makes a lifted function run its numeric checks, and wait for them."""
  chexified = chex.chexify(function, async_check=False)

  @functools.wraps(function)
  def run(*args: Any) -> Any:
    # The switch is read while tracing, which the first call does.
    with checks.numerics(True), _one_line_checks():
      return chexified(*args)

  return run


class Jit:
  """One device, or whatever the default placement is."""

  devices = 1

  def __init__(self, task: Task, *, debug: bool = False):
    def step(state: TrainState, batch: HostBatch) -> Any:
      return train_step(task, state, batch)

    def evaluate(state: TrainState, batch: HostBatch) -> Any:
      return eval_step(task.model, state.params, batch)

    if debug:
      self._step = _checked(jax.jit(step))
      self._evaluate = _checked(jax.jit(evaluate))
    else:
      self._step = jax.jit(step, donate_argnums=0)
      self._evaluate = jax.jit(evaluate)

  def prepare(self, state: TrainState) -> TrainState:
    return jax.device_put(state)

  def batch(self, batch: HostBatch) -> dict[str, jax.Array]:
    return jax.device_put(dict(batch))

  def step(self, state: TrainState, batch: Any) -> Any:
    return self._step(state, batch)

  def evaluate(self, state: TrainState, batch: Any) -> dict[str, jax.Array]:
    return self._evaluate(state, batch)

  def fetch(self, state: TrainState) -> TrainState:
    return _copy(state)


class Pmap:
  """All local devices: the state on each, the batch split among them."""

  def __init__(self, task: Task, *, debug: bool = False):
    self.devices = jax.local_device_count()

    def step(state: TrainState, batch: HostBatch) -> Any:
      return train_step(task, state, batch, "batch")

    def evaluate(state: TrainState, batch: HostBatch) -> Any:
      return jax.lax.psum(eval_step(task.model, state.params, batch), "batch")

    # Metrics are equal on every device after the sum: one copy comes back.
    lift = functools.partial(jax.pmap, axis_name="batch")
    if debug:
      self._step = _checked(lift(step, out_axes=(0, None)))
      self._evaluate = _checked(lift(evaluate, out_axes=None))
    else:
      self._step = lift(step, out_axes=(0, None), donate_argnums=0)
      self._evaluate = lift(evaluate, out_axes=None)

  def prepare(self, state: TrainState) -> Any:
    count = self.devices
    return jax.pmap(lambda x: x)(
      jax.tree.map(lambda x: np.stack([np.asarray(x)] * count), state)
    )

  def batch(self, batch: HostBatch) -> dict[str, np.ndarray]:
    count = self.devices
    return {
      name: x.reshape(count, x.shape[0] // count, *x.shape[1:])
      for name, x in batch.items()
    }

  def step(self, state: Any, batch: Any) -> Any:
    return self._step(state, batch)

  def evaluate(self, state: Any, batch: Any) -> dict[str, jax.Array]:
    return self._evaluate(state, batch)

  def fetch(self, state: Any) -> TrainState:
    return _copy(jax.tree.map(lambda x: x[0], state))


def make_strategy(name: str, task: Task, *, debug: bool = False) -> Strategy:
  """Builds the strategy of that name, "jit" or "pmap"."""
  kinds: dict[str, Callable[..., Strategy]] = {"jit": Jit, "pmap": Pmap}
  return kinds[name](task, debug=debug)


def device_count(name: str) -> int:
  """Returns how many devices share a batch under a strategy."""
  return jax.local_device_count() if name == "pmap" else 1
