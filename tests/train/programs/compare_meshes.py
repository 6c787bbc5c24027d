"""Trains a hybrid on 8 devices under every strategy; prints what each gives.

The model has a matrix state with a delta rule, one with a head decay, tails
of convolutions, a window and full attention with rotary positions; the data
two documents a row, cut where no device's piece ends, and weights.
"""

import dataclasses
import json

import jax
import numpy as np

from jaxmodels.models import LanguageModel
from tests.train import tiny
from train.config import AdamW, Config, Mesh, layout
from train.data import Batches
from train.devices.strategy import make_strategy
from train.setup import make_learner
from train.state import init_state

STEPS, LENGTH = 20, 32
MIXERS = ("gated_deltanet", "mamba2", "sliding_attention", "softmax_attention")
STRATEGIES = {
  "jit": {},
  "pmap": {"strategy": "pmap"},
  "data": {"mesh": Mesh(data=8)},
  "fsdp": {"mesh": Mesh(fsdp=-1)},
  "sequence": {"mesh": Mesh(sequence=8)},
  "mixed": {"mesh": Mesh(data=2, fsdp=2, sequence=2), "accumulation": 2},
}


def get_config():
  options = {
    "gated_deltanet": {"heads": 2},
    "mamba2": {"head_width": 8, "state_width": 8},
    # Longer than a piece of 4 tokens, and shorter than one of 16.
    "sliding_attention": {"heads": 2, "window": 7},
    "softmax_attention": {"heads": 2, "max_length": LENGTH},
  }
  return Config(
    model=LanguageModel(
      tiny.VOCAB, 16, len(MIXERS), MIXERS, options, mlp="none"
    ),
    data=tiny.Data(length=LENGTH, document=13),
    optimizer=AdamW(learning_rate=1e-3, warmup_steps=4),
    steps=STEPS,
    batch_size=8,
  )


def train(config, states):
  """Returns losses of all steps and the last validation, and gradient norms.

  Each norm is computed from the single-device state before that step. Some
  batches make the norm 450 times as sensitive as the parameters, so norms of
  separate runs would differ by accumulated rounding.

  Args:
    config: the run.
    states: the states of one device before each step. The first run gets only
      the first state, and appends the others.
  """
  learner = make_learner(config)
  mesh = layout(config, jax.device_count())
  strategy = make_strategy(config.strategy, learner, mesh=mesh)
  state = strategy.prepare(states[0])
  batches = Batches(config.data.open("train"), config.batch_size, seed=0)
  losses, norms = [], []
  for step in range(config.steps):
    batch = next(batches)
    if step == len(states):
      states.append(on_host(state))
    state, metrics = strategy.step(state, strategy.batch(batch))
    losses.append(float(metrics["loss"]))
    if step % 3 == 0:
      own = strategy.prepare(states[step])
      _, metrics = strategy.step(own, strategy.batch(batch))
      norms.append(float(metrics["grad_norm"]))
  sums = strategy.evaluate(state, strategy.batch(next(batches)))
  return {
    "loss": losses,
    "grad_norm": norms,
    "validation": float(sums["loss"]),
  }


def on_host(state):
  """Returns a copy of the state, since every strategy donates its state."""
  return jax.tree.map(np.array, jax.device_get(state))


def main():
  config = get_config()
  learner = make_learner(config)
  state = init_state(learner.model, learner.optimizer, config.seed, LENGTH)
  states = [on_host(state)]
  results = {
    name: train(dataclasses.replace(config, **changes), states)
    for name, changes in STRATEGIES.items()
  }
  print(json.dumps(results))


if __name__ == "__main__":
  main()
