"""Environments as pure functions: a state in, a state out, keys for chance.

Each environment needs memory, and knows the returns of a uniformly random
policy and of an optimal one, which stand beside measured returns.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.config.checks import Fields

State = Any


class Step(NamedTuple):
  """What follows an action, for one environment.

  Attributes:
    state: The state after the action.
    observation: The observation after the action, [features].
    reward: The reward of the action, a float32 scalar.
    done: Whether the action was the last of the episode, a bool.
  """

  state: State
  observation: jax.Array
  reward: jax.Array
  done: jax.Array


@dataclasses.dataclass(frozen=True)
class Environment(abc.ABC):
  """A task for one agent; its fields are its configuration.

  `reset` and `step` take one environment; `jax.vmap` runs many.
  """

  @property
  @abc.abstractmethod
  def actions(self) -> int:
    """The number of actions."""

  @property
  @abc.abstractmethod
  def horizon(self) -> int:
    """The number of steps in the longest episode."""

  @property
  def pieces(self) -> int:
    """The number of equal pieces of an episode with returns of their own."""
    return 1

  @abc.abstractmethod
  def reset(self, key: jax.Array) -> tuple[State, jax.Array]:
    """Draws the state and the observation [features] of a new episode."""

  @abc.abstractmethod
  def step(self, key: jax.Array, state: State, action: jax.Array) -> Step:
    """Returns what follows an action, an integer scalar."""

  def hardest(self) -> "Environment":
    """The environment in which policies are evaluated; by default this one."""
    return self

  @abc.abstractmethod
  def chance(self) -> np.ndarray:
    """The expected return of a uniformly random policy, [pieces]."""

  @abc.abstractmethod
  def optimum(self) -> np.ndarray:
    """The expected return of an optimal policy without oracle, [pieces]."""

  @abc.abstractmethod
  def check(self, key: str) -> None:
    """Raises a UserError that names the first field with a wrong value."""


class MemoryChainState(NamedTuple):
  """The state of `MemoryChain`: three int32 scalars.

  Attributes:
    time: The number of actions so far.
    length: The number of steps in the episode.
    cue: 0 or 1.
  """

  time: jax.Array
  length: jax.Array
  cue: jax.Array


@dataclasses.dataclass(frozen=True)
class MemoryChain(Environment):
  """Shows a bit at the first step and asks for it at the last one.

  The task "memory length" of bsuite (Osband et al. 2020, arXiv:1908.03568). At
  the last step the reward is 1 if the action is the bit, and -1 otherwise; all
  other actions have no effect. An observation is

    [share of the steps that are left, is this the last step?, +1 or -1 at the
     first step and 0 after]

  Departure: the length is drawn anew for every episode. `hardest` has only
  episodes of the longest length.

  Attributes:
    shortest: The least number of steps in an episode, at least 2.
    longest: The most steps in an episode.
  """

  shortest: int = 2
  longest: int = 64

  @property
  def actions(self) -> int:
    """The values of a bit."""
    return 2

  @property
  def horizon(self) -> int:
    """The longest length."""
    return self.longest

  def reset(self, key: jax.Array) -> tuple[MemoryChainState, jax.Array]:
    """See `Environment.reset`."""
    for_length, for_cue = jax.random.split(key)
    length = jax.random.randint(
      for_length, (), self.shortest, self.longest + 1, jnp.int32
    )
    cue = jax.random.randint(for_cue, (), 0, 2, jnp.int32)
    state = MemoryChainState(jnp.zeros((), jnp.int32), length, cue)
    return state, self._observation(state)

  def step(
    self, key: jax.Array, state: MemoryChainState, action: jax.Array
  ) -> Step:
    """See `Environment.step`."""
    done = state.time == state.length - 1
    answer = jnp.where(action == state.cue, 1.0, -1.0)
    state = state._replace(time=state.time + 1)
    reward = jnp.where(done, answer, 0.0)
    return Step(state, self._observation(state), reward, done)

  def _observation(self, state: MemoryChainState) -> jax.Array:
    time = state.time.astype(jnp.float32)
    left = 1 - time / state.length.astype(jnp.float32)
    is_last = state.time == state.length - 1
    cue = jnp.where(state.time == 0, 2.0 * state.cue.astype(jnp.float32) - 1, 0)
    return jnp.stack([left, is_last.astype(jnp.float32), cue])

  def hardest(self) -> "MemoryChain":
    """The environment whose episodes all have the longest length."""
    return dataclasses.replace(self, shortest=self.longest)

  def chance(self) -> np.ndarray:
    """Half of the answers are right: 0."""
    return np.zeros(1)

  def optimum(self) -> np.ndarray:
    """All answers are right: 1."""
    return np.ones(1)

  def check(self, key: str) -> None:
    """See `Environment.check`."""
    fields = Fields(self, key)
    fields.count("shortest", least=2)
    fields.count("longest", least=self.shortest)


class HiddenGoalState(NamedTuple):
  """The state of `HiddenGoal`: three int32 scalars.

  Attributes:
    time: The number of actions so far, in all trials of the episode.
    position: The place of the agent on the ring; each trial starts at 0.
    goal: The place of the goal, the same in all trials of the episode.
  """

  time: jax.Array
  position: jax.Array
  goal: jax.Array


@dataclasses.dataclass(frozen=True)
class HiddenGoal(Environment):
  """Several trials to find one hidden goal on a ring: meta-reinforcement.

  An episode has a goal, drawn uniformly from the places other than the start,
  and several trials, all of which start at place 0. The actions move left, stay
  and move right. Each step that ends at the goal has the reward 1. The agent
  does not see the goal: it must search for it in the first trial, and go there
  directly in the trials that follow, as in the multi-trial episodes of RL^2
  (Duan et al. 2016, arXiv:1611.02779). An observation is the one-hot place, and
  whether a trial starts.

  Attributes:
    places: The number of places on the ring.
    trials: The number of trials in an episode.
    trial_steps: The number of steps in a trial, at least `places` - 1, so that
      one trial is enough to visit all places.
  """

  places: int = 9
  trials: int = 6
  trial_steps: int = 8

  @property
  def actions(self) -> int:
    """Left, stay, right."""
    return 3

  @property
  def horizon(self) -> int:
    """The steps of all trials."""
    return self.trials * self.trial_steps

  @property
  def pieces(self) -> int:
    """The number of trials."""
    return self.trials

  def reset(self, key: jax.Array) -> tuple[HiddenGoalState, jax.Array]:
    """See `Environment.reset`."""
    goal = jax.random.randint(key, (), 1, self.places, jnp.int32)
    zero = jnp.zeros((), jnp.int32)
    state = HiddenGoalState(zero, zero, goal)
    return state, self._observation(state)

  def step(
    self, key: jax.Array, state: HiddenGoalState, action: jax.Array
  ) -> Step:
    """See `Environment.step`."""
    position = (state.position + action.astype(jnp.int32) - 1) % self.places
    reward = (position == state.goal).astype(jnp.float32)
    time = state.time + 1
    starts = time % self.trial_steps == 0
    state = HiddenGoalState(time, jnp.where(starts, 0, position), state.goal)
    done = time == self.horizon
    return Step(state, self._observation(state), reward, done)

  def _observation(self, state: HiddenGoalState) -> jax.Array:
    place = jax.nn.one_hot(state.position, self.places)
    starts = (state.time % self.trial_steps == 0).astype(jnp.float32)
    return jnp.append(place, starts)

  def chance(self) -> np.ndarray:
    """The expected number of steps that a random walk spends at the goal."""
    place, total = np.eye(self.places)[0], 0.0
    for _ in range(self.trial_steps):
      place = (np.roll(place, -1) + place + np.roll(place, 1)) / 3
      total += place[1:].mean()
    return np.full(self.trials, total)

  def optimum(self) -> np.ndarray:
    """The returns of a search around the ring, then of the shortest ways.

    No search visits more places in fewer steps, and the search always finds
    the goal, so no policy has a higher return in any trial.
    """
    goal = np.arange(1, self.places)
    searched = (self.trial_steps - goal + 1).mean()
    way = np.minimum(goal, self.places - goal)
    direct = (self.trial_steps - way + 1).mean()
    return np.array([searched, *[direct] * (self.trials - 1)])

  def check(self, key: str) -> None:
    """See `Environment.check`."""
    fields = Fields(self, key)
    fields.count("places", least=2)
    fields.count("trials")
    fields.count("trial_steps", least=self.places - 1)
