"""Environments: their steps, and the returns of random and optimal policies."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.errors import UserError
from train.reinforcement import HiddenGoal, MemoryChain

KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=0)
def played(environment, state, actions):
  """The rewards and the ends of a given sequence of actions."""

  def step(state, action):
    after = environment.step(KEY, state, action)
    return after.state, (after.observation, after.reward, after.done)

  return jax.lax.scan(step, state, actions)[1]


def test_a_memory_chain_shows_its_bit_once_and_asks_at_the_end():
  environment = MemoryChain(shortest=2, longest=5)
  states, first = jax.jit(jax.vmap(environment.reset))(
    jax.random.split(KEY, 64)
  )
  assert set(states.length.tolist()) == {2, 3, 4, 5}
  np.testing.assert_array_equal(first[:, 2], 2 * states.cue - 1)
  for cue, answer in itertools.product((0, 1), repeat=2):
    row = [i for i in range(64) if states.length[i] == 4]
    row = next(i for i in row if states.cue[i] == cue)
    state = jax.tree.map(lambda leaf, i=row: leaf[i], states)
    seen, reward, done = played(
      environment, state, np.array([1 - answer] * 3 + [answer])
    )
    # The share of steps that are left, is it the last step, and no bit.
    expected = [[0.75, 0, 0], [0.5, 0, 0], [0.25, 1, 0]]
    np.testing.assert_allclose(seen[:3], expected)
    assert done.tolist() == [False, False, False, True]
    assert reward.tolist() == [0, 0, 0, 1 if answer == cue else -1]
  assert environment.hardest() == MemoryChain(shortest=5, longest=5)


def searched(environment, goals, place, left):
  """The best expected rewards in `left` steps, given the possible goals."""

  @functools.cache
  def best(goals, place, left):
    if not left or not goals:
      return 0.0
    values = []
    for move in (-1, 0, 1):
      at = (place + move) % environment.places
      others = goals - {at}
      # Whoever finds the goal stays: a reward for this step and all others.
      found = len(goals) - len(others)
      later = best(others, at, left - 1) * len(others)
      values.append((found * left + later) / len(goals))
    return max(values)

  return best(frozenset(goals), place, left)


def test_returns_of_random_and_optimal_policies_in_a_hidden_goal():
  environment = HiddenGoal(places=5, trials=2, trial_steps=4)
  goals = range(1, 5)
  every = np.array(list(itertools.product(range(3), repeat=4)))
  zero = jnp.zeros((), jnp.int32)
  state, _ = environment.reset(KEY)

  def rewards(actions, goal):
    start = state._replace(time=zero, position=zero, goal=goal)
    return played(environment, start, actions)[1]

  of_goals = jax.vmap(rewards, (None, 0))
  found = jax.jit(jax.vmap(of_goals, (0, None)))(
    jnp.asarray(every), jnp.arange(1, 5)
  ).sum(-1)
  # All sequences of actions are equally likely in a random trial.
  np.testing.assert_allclose(found.mean(), environment.chance()[0], rtol=1e-6)
  optimum = environment.optimum()
  assert searched(environment, goals, 0, 4) == pytest.approx(optimum[0])
  np.testing.assert_allclose(found.max(0).mean(), optimum[1], rtol=1e-6)


def test_trials_of_a_hidden_goal_restart_at_the_same_place():
  environment = HiddenGoal(places=4, trials=2, trial_steps=3)
  state, first = environment.reset(KEY)
  seen, _, done = played(environment, state, np.array([2, 2, 1, 0, 1, 1]))
  assert first.tolist() == [1, 0, 0, 0, 1]
  places = seen[:, :4].argmax(1)
  assert places.tolist() == [1, 2, 0, 3, 3, 0]
  assert seen[:, 4].tolist() == [0, 0, 1, 0, 0, 1]
  assert done.tolist() == [False] * 5 + [True]
  with pytest.raises(UserError, match=r"environment\.trial_steps is 3, but"):
    HiddenGoal(places=5, trial_steps=3).check("environment")
