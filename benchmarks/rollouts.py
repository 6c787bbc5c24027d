"""Packed rollouts against single steps.

NPROC=1 python -m benchmarks.rollouts

A policy learns from rollouts that hold several episodes each. Packed, one call
reads a whole rollout, and the state starts anew inside the scan of the mixer.
Stepped, a loop reads one observation of all environments at a time. Both give
the same gradient, which is checked. Lu et al. 2023, arXiv:2303.03982, report
that packed rollouts train more than five times faster.

Writes `benchmarks/results/rollouts.json` and prints its table:

- the processor time of both gradients; with NPROC=1, XLA has one thread;
- the floor: the time of the packed gradient's products alone, at the rate of a
  product of all observations with a square matrix in the same run. Stepping
  computes the same products;
- the launches of both gradients on an H100, counted in the compiled programs
  (`jaxmodels.analysis.launches`); no GPU has run them.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tpu
from benchmarks.measure import least_processor_seconds
from jaxmodels.analysis import chips
from jaxmodels.analysis.launches import launches
from jaxmodels.models import RecurrentPolicy
from train.config import command_line
from train.reinforcement import ReinforcementConfig, ppo, rollout
from train.reinforcement.run import make_learner

CONFIG = "configs/reinforcement/memory_chain.py"
OUTPUT = os.path.join("benchmarks", "results", "rollouts.json")
STEPS = 256
WIDTH = 128
ENVIRONMENTS = (1, 4, 16, 64)
ROUNDS = 15
GPU = "h100:1"
Losses = dict[str, Callable[[Any], jax.Array]]


def losses(environments: int) -> tuple[Losses, Any]:
  """The loss of the parameters, packed and stepped, and the parameters."""
  config = command_line.load(CONFIG, ReinforcementConfig)
  config = dataclasses.replace(
    config,
    # Without an MLP, most of the time is that of the mixer.
    model=config.model.clone(width=WIDTH, mlp="none"),
    environments=environments,
    rollout_steps=STEPS,
  )
  learner = make_learner(config)
  state = jax.jit(lambda: ppo.initial_state(learner, jnp.uint32(0)))()
  _, taken = jax.jit(
    lambda key: rollout.collect(
      learner.model,
      learner.environment,
      state.params,
      state.actor,
      key,
      STEPS,
    )
  )(jax.random.key(1))
  policy, gain = state.actor.policy, taken.reward

  def packed(params: Any) -> jax.Array:
    return ppo.rollout_loss(learner, params, policy, taken, gain)[0]

  def stepped(params: Any) -> jax.Array:
    outputs = _outputs_by_steps(learner.model, params, policy, taken)
    return ppo.loss(outputs, taken, gain, learner.ppo)[0]

  return {"packed": packed, "stepped": stepped}, state.params


def _outputs_by_steps(
  model: RecurrentPolicy, params: Any, policy: Any, taken: rollout.Rollout
) -> Any:
  """The outputs of single steps, whose state is zero where episodes start."""
  zero = model.init_state(taken.reward.shape[0])

  def step(policy: Any, now: Any) -> tuple[Any, Any]:
    observation, feedback = now

    def reset(zero: jax.Array, own: jax.Array) -> jax.Array:
      first = feedback.first.reshape(-1, *[1] * (own.ndim - 1))
      return jnp.where(first, zero, own)

    policy = jax.tree.map(reset, zero, policy)
    observation, feedback = jax.tree.map(lambda x: x[:, None], now)
    output, policy = model.apply(
      {"params": params}, observation, policy, feedback=feedback
    )
    return policy, jax.tree.map(lambda x: x[:, 0], output)

  def swapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)

  rows = swapped((taken.observation, taken.feedback))
  return swapped(jax.lax.scan(step, policy, rows)[1])


def measure(environments: int) -> dict[str, Any]:
  """The record of one number of environments.

  Raises:
    ValueError: The gradients differ.
  """
  ways, params = losses(environments)
  gradients = {name: jax.jit(jax.grad(way)) for name, way in ways.items()}
  _check_equal(*(gradient(params) for gradient in gradients.values()))
  rows = jnp.ones((environments * STEPS, WIDTH))
  square = jnp.ones((WIDTH, WIDTH))
  product = jax.jit(jnp.matmul)
  calls = [functools.partial(way, params) for way in gradients.values()]
  calls.append(functools.partial(product, rows, square))
  *seconds, alone = least_processor_seconds(calls, ROUNDS).tolist()
  rate = 2 * rows.size * WIDTH / alone
  compiled = gradients["packed"].lower(params).compile()
  record = {
    "mixer": "s5",
    "environments": environments,
    "steps": STEPS,
    "width": WIDTH,
    "milliseconds": {
      name: 1e3 * x for name, x in zip(gradients, seconds, strict=True)
    },
    "floor_milliseconds": 1e3 * compiled.cost_analysis()["flops"] / rate,
    "config": CONFIG,
    "command": "NPROC=1 python -m benchmarks.rollouts",
  }
  if chips.is_there("gpu"):
    counts = {name: _launches(way, params) for name, way in ways.items()}
    record["h100_launches"] = counts
  return record


def _check_equal(packed: Any, stepped: Any) -> None:
  ours, theirs = (
    np.concatenate([x.ravel() for x in jax.tree.leaves(gradient)])
    for gradient in (packed, stepped)
  )
  error = np.abs(ours - theirs).max() / np.abs(theirs).max()
  if error > 1e-3:
    raise ValueError(f"the gradients differ by {error:.1e}")


def _launches(loss: Callable[[Any], jax.Array], params: Any) -> int:
  with tpu.traced_for(GPU):
    # A new function: those traced before were traced for a CPU.
    gradient = jax.jit(jax.grad(lambda params: loss(params)))
    lowered = gradient.lower(tpu.place(params, tpu.chip(GPU)))
  return launches(lowered.compile().as_text())


def table(records: list[dict[str, Any]]) -> str:
  """The records as Markdown."""
  lines = [
    "| environments | packed, ms | stepped, ms | ratio | floor of the packed,"
    " ms | launches on an H100, packed | stepped | ratio |",
    "|" + "---:|" * 8,
  ]
  for r in records:
    packed, stepped = r["milliseconds"].values()
    cells = [
      *(r["environments"], f"{packed:.1f}", f"{stepped:.1f}"),
      *(f"{stepped / packed:.1f}", f"{r['floor_milliseconds']:.1f}"),
    ]
    if counts := r.get("h100_launches"):
      few, many = counts.values()
      cells += [f"{few:,}", f"{many:,}", f"{many / few:.0f}"]
    else:
      cells += [""] * 3
    lines.append("| " + " | ".join(map(str, cells)) + " |")
  return "\n".join(lines)


def main() -> None:
  """Measures, writes and prints."""
  records = [measure(environments) for environments in ENVIRONMENTS]
  with open(OUTPUT, "w") as file:
    json.dump(records, file, indent=1)
    file.write("\n")
  print(table(records))


if __name__ == "__main__":
  main()
