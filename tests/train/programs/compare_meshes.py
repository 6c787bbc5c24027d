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
from train.config import Config, Mesh, Optimizer, layout
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
    optimizer=Optimizer(learning_rate=1e-3, warmup_steps=4),
    steps=STEPS,
    batch_size=8,
  )


def train(config, state):
  """Losses and gradient norms of all steps, and the last validation."""
  learner = make_learner(config)
  mesh = layout(config, jax.device_count())
  strategy = make_strategy(config.strategy, learner, mesh=mesh)
  state = strategy.prepare(state)
  batches = Batches(config.data.open("train"), config.batch_size, seed=0)
  curves = {"loss": [], "grad_norm": []}
  for _ in range(config.steps):
    state, metrics = strategy.step(state, strategy.batch(next(batches)))
    for name, curve in curves.items():
      curve.append(float(metrics[name]))
  sums = strategy.evaluate(state, strategy.batch(next(batches)))
  return {**curves, "validation": float(sums["loss"])}


def main():
  config = get_config()
  learner = make_learner(config)
  state = init_state(learner.model, learner.optimizer, config.seed, LENGTH)
  # On the host, since every strategy uses its own copy up.
  state = jax.tree.map(np.array, jax.device_get(state))
  results = {
    name: train(dataclasses.replace(config, **changes), state)
    for name, changes in STRATEGIES.items()
  }
  print(json.dumps(results))


if __name__ == "__main__":
  main()
