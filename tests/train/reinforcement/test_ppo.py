"""Proximal policy optimization: its equations as loops, and one small run."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import ActorCritic, Feedback, RecurrentPolicy
from train.errors import UserError
from train.metrics import read_metrics
from train.reinforcement import (
  HiddenGoal,
  MemoryChain,
  Ppo,
  ReinforcementConfig,
  ppo,
  rollout,
)
from train.reinforcement.config import validate
from train.reinforcement.run import make_learner, make_programs, run

ROWS, STEPS, ACTIONS = 3, 5, 4


def drawn(seed=0):
  """Outputs of a new policy, and steps of an old one."""
  rng = np.random.default_rng(seed)
  shape = (ROWS, STEPS)

  def normal(*more):
    return jnp.asarray(rng.normal(size=(*shape, *more)), jnp.float32)

  action = jnp.asarray(rng.integers(ACTIONS, size=shape))
  done = jnp.asarray(rng.random(shape) < 0.3)
  feedback = Feedback(action, normal(), done)
  old = rollout.log_probability(normal(ACTIONS), action)
  taken = rollout.Rollout(
    normal(2), feedback, action, old, normal(), normal(), done
  )
  return ActorCritic(normal(ACTIONS), normal()), taken


def test_advantages_equal_their_sums_of_errors():
  _, taken = drawn()
  last = jnp.asarray([0.5, -1.0, 2.0])
  discount, trace = 0.9, 0.7
  found = ppo.advantages(
    taken.reward, taken.value, taken.done, last, discount, trace
  )
  reward, value, done = (
    np.asarray(x, np.float64) for x in (taken.reward, taken.value, taken.done)
  )
  for n in range(ROWS):
    for t in range(STEPS):
      total, weight = 0.0, 1.0
      for s in range(t, STEPS):
        after = value[n, s + 1] if s + 1 < STEPS else float(last[n])
        goes_on = 1 - done[n, s]
        error = reward[n, s] + discount * after * goes_on - value[n, s]
        total += weight * error
        weight *= discount * trace * goes_on
      assert float(found[n, t]) == pytest.approx(total, abs=1e-5)


def test_the_loss_equals_a_loop_over_steps():
  output, taken = drawn(1)
  options = Ppo(clip=0.3, value_weight=0.7, entropy_weight=0.2)
  rng = np.random.default_rng(2)
  advantage = jnp.asarray(rng.normal(size=(ROWS, STEPS)), jnp.float32)
  found, parts = ppo.loss(output, taken, advantage, options)

  logits = np.asarray(output.logits, np.float64)
  gains = np.asarray(advantage, np.float64)
  scaled = (gains - gains.mean()) / gains.std()
  policy = value = entropy = clipped = 0.0
  for n, t in np.ndindex(ROWS, STEPS):
    p = np.exp(logits[n, t]) / np.exp(logits[n, t]).sum()
    ratio = p[taken.action[n, t]] / math.exp(taken.log_prob[n, t])
    bounded = min(max(ratio, 0.7), 1.3)
    policy -= min(ratio * scaled[n, t], bounded * scaled[n, t])
    target = gains[n, t] + float(taken.value[n, t])
    value += (float(output.value[n, t]) - target) ** 2 / 2
    entropy -= (p * np.log(p)).sum()
    clipped += ratio != bounded
  sums = {"policy_loss": policy, "value_loss": value, "entropy": entropy}
  for name, total in {**sums, "clipped": clipped}.items():
    assert float(parts[name]) == pytest.approx(total / (ROWS * STEPS), rel=1e-5)
  total = (policy + 0.7 * value - 0.2 * entropy) / (ROWS * STEPS)
  assert float(found) == pytest.approx(total, rel=1e-5)
  assert 0 < clipped < ROWS * STEPS


def small(**changes):
  """A run of four updates in seconds."""
  return ReinforcementConfig(
    model=RecurrentPolicy(
      actions=2, width=4, depth=1, mixers=("lru",), mlp="none"
    ),
    algorithm=Ppo(epochs=2, minibatches=2),
    **{
      "environment": MemoryChain(shortest=2, longest=4),
      "updates": 4,
      "environments": 4,
      "rollout_steps": 6,
      "log_every": 1,
      "eval_every": 2,
      "eval_episodes": 8,
      "checkpoint_every": 2,
      **changes,
    },
  )


@pytest.mark.slow
def test_a_rollout_packs_episodes_as_its_policy_saw_them():
  learner = make_learner(small())

  @jax.jit
  def two_rollouts(seed):
    state = ppo.initial_state(learner, seed)
    params = state.params
    # The second one starts in the middle of episodes.
    actor, _ = rollout.collect(
      learner.model, learner.environment, params, state.actor, KEYS[0], 5
    )
    _, taken = rollout.collect(
      learner.model, learner.environment, params, actor, KEYS[1], 6
    )
    loss = ppo.rollout_loss(learner, params, actor.policy, taken, taken.reward)
    return taken, loss

  taken, (_, parts) = two_rollouts(np.uint32(3))
  first = np.asarray(taken.feedback.first)
  np.testing.assert_array_equal(first[:, 1:], taken.done[:, :-1])
  assert not first[:, 0].all()
  assert first.any()
  # An episode shows its bit at its first observation alone, and its feedback
  # is the action and the reward before.
  np.testing.assert_array_equal(taken.observation[:, :, 2] != 0, first)
  before = np.where(first[:, 1:], -1, taken.action[:, :-1])
  np.testing.assert_array_equal(taken.feedback.action[:, 1:], before)
  assert not np.any(taken.feedback.reward[:, 1:][first[:, 1:]])
  # The same parameters give the packed rollout the same probabilities, so no
  # ratio differs from 1 and the mean of the scaled rewards is 0.
  assert float(parts["clipped"]) == 0
  assert abs(float(parts["policy_loss"])) < 1e-6


KEYS = jax.random.split(jax.random.key(1))


@pytest.mark.slow
def test_a_run_resumes_where_it_was_saved(tmp_path):
  config = small()
  programs = make_programs(config)
  whole = run(config, str(tmp_path / "whole"), programs)
  folder = str(tmp_path / "cut")
  part = run(dataclasses.replace(config, updates=2), folder, programs)
  assert part.step == 2
  lines = read_metrics(folder)
  assert [x["step"] for x in lines if x["split"] == "train"] == [1, 2]
  resumed = run(config, folder, programs)
  assert resumed.step == 4
  jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
  np.testing.assert_array_equal(resumed.returns, whole.returns)
  lines = read_metrics(folder)
  assert [x["step"] for x in lines if x["split"] == "train"] == [1, 2, 3, 4]
  other = dataclasses.replace(config, seed=1)
  with pytest.raises(UserError, match=r"config\.seed was 0 and is 1"):
    run(other, folder, programs)


def test_wrong_configs_are_refused():
  with pytest.raises(UserError, match=r"model\.actions is 2, but must be 3"):
    validate(small(environment=HiddenGoal()))
  with pytest.raises(UserError, match="minibatches is 2, but must be a div"):
    validate(small(environments=3))


@pytest.mark.slow
def test_a_policy_learns_to_remember(tmp_path):
  config = small(
    updates=40, environments=32, rollout_steps=16, eval_episodes=128
  )
  outcome = run(dataclasses.replace(config, checkpoint_every=40), str(tmp_path))
  # Chance is 0: a policy without memory cannot have more.
  assert outcome.returns.sum() > 0.9
