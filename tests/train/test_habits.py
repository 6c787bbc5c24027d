"""Devices stay busy: no hidden transfers or waits, donation, one trace."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.train import tiny
from train import loop, setup
from train.config import Cosine, Mesh
from train.data import Batches
from train.devices import strategy
from train.devices.strategy import Strategy, make_strategy
from train.loop import run
from train.setup import make_learner
from train.state import init_state

STRATEGIES = {
  "one device": {},
  "mesh": {"mesh": Mesh(data=2, fsdp=2)},
  "pmap": {"strategy": "pmap"},
}


def configured(name, **changes):
  config = tiny.get_config()
  changes = {**STRATEGIES[name], **changes}
  # With a schedule of its own a run can be made longer.
  optimizer = dataclasses.replace(
    config.optimizer, schedule=Cosine(end_step=20)
  )
  return dataclasses.replace(config, optimizer=optimizer, **changes)


def built(name):
  """Returns a strategy, its state, and batches on the host."""
  config = configured(name)
  learner = make_learner(config)
  strategy = make_strategy(config.strategy, learner, mesh=config.mesh)
  state = init_state(learner.model, learner.optimizer, config.seed, 12)
  batches = Batches(config.data.open("train"), config.batch_size, seed=0)
  return strategy, strategy.prepare(state), batches


def count_calls(patch, module, name, counts):
  """Counts calls of a function; under `jit` only calls that trace it."""
  function = getattr(module, name)

  @functools.wraps(function)
  def counted(*args):
    counts[name] += 1
    return function(*args)

  patch.setattr(module, name, counted)


@pytest.mark.parametrize(
  "name", ["one device", "mesh", pytest.param("pmap", marks=pytest.mark.slow)]
)
def test_a_run_makes_no_implicit_transfers_and_compiles_once(
  name, tmp_path, monkeypatch
):
  traces, compiled = collections.Counter(), []
  count_calls(monkeypatch, strategy, "train_step", traces)
  count_calls(monkeypatch, strategy, "eval_step", traces)
  unguarded = loop.Loop.run

  def guarded(self, stop):
    compiled.clear()
    with jax.transfer_guard("disallow"):
      unguarded(self, stop)

  def listen(event, seconds, **about):
    # Slices are orbax's: of what many devices hold, each writes a part.
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.extend({about["fun_name"]} - {"jit(slice)"})

  monkeypatch.setattr(loop.Loop, "run", guarded)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    # Then resumed. The last batch of every validation is not full.
    for steps in (2, 5):
      traces.clear()
      config = configured(name, steps=steps, eval_every=2, checkpoint_every=2)
      assert run(config, str(tmp_path)).step == steps
      assert traces == {"train_step": 1, "eval_step": 1}
      assert len(compiled) == 2, compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", ["one device", "pmap"])
def test_a_step_donates_its_state_and_refuses_a_batch_on_the_host(name):
  strategy, state, batches = built(name)
  first, second = (strategy.batch(next(batches)) for _ in range(2))
  memory = strategy.step.lower(state, first).compile().memory_analysis()
  leaves = jax.tree.leaves(state)
  own = sum(x.addressable_shards[0].data.nbytes for x in leaves)
  assert memory.alias_size_in_bytes == own
  host = jax.tree.map(np.array, jax.device_get(second))
  with jax.transfer_guard("disallow"):
    state, _ = strategy.step(state, first)
    assert all(x.is_deleted() for x in leaves)
    # The guard detects a transfer.
    with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
      strategy.step(state, host)


class Waited:
  """A number on a device; reading it waits for the device."""

  def __init__(self, value, read):
    self._value, self._read = value, read

  def __array__(self, dtype=None, copy=None):
    self._read()
    return np.asarray(self._value, dtype)


def test_the_next_batch_is_sent_before_anything_is_waited_for(
  tmp_path, monkeypatch
):
  config = configured("one device", steps=5, eval_every=3, checkpoint_every=3)
  events, state = [], None

  def step(placed, batch):
    number = 1 + sum(event.startswith("step") for event in events)
    events.append(f"step {number}")
    assert batch == f"batch {number}"

    def read():
      events.append(f"wait {number}")

    values = {"bits_per_token": 1, "accuracy": 1, "finite": True}
    norms = {"grad_norm": 1, "update_norm": 1, "param_norm": 1}
    values = {"loss": Waited(1, read), "tokens": 1, **values, **norms}
    return placed, values

  def batch(host):
    number = 1 + sum(event.startswith("send") for event in events)
    events.append(f"send {number}")
    return f"batch {number}"

  def prepare(first):
    nonlocal state
    state = first
    return "on the device"

  def saved(placed):
    events.append("save state")
    return state

  place = make_strategy("jit", make_learner(config)).place
  strategy = Strategy(1, place, prepare, range, batch, step, None, saved, dict)
  monkeypatch.setattr(setup, "make_strategy", lambda *_, **__: strategy)
  monkeypatch.setattr(
    loop, "evaluate", lambda *_: events.append("evaluate") or {"loss": 1.0}
  )
  run(config, str(tmp_path))
  assert events == EXPECTED.strip().splitlines()


# The last line is for the parameters of the result.
EXPECTED = """
evaluate
send 1
step 1
send 2
step 2
send 3
wait 1
step 3
send 4
wait 2
wait 3
evaluate
save state
step 4
send 5
step 5
wait 4
wait 5
evaluate
save state
save state
"""
