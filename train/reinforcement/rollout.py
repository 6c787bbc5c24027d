"""Policies in many environments at once: rollouts and evaluations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmodels.models.policy import ActorCritic, Feedback, episode_ids
from train.reinforcement.environments import Environment

Params = Any


class Actor(NamedTuple):
  """Where N environments and their policy are between two steps.

  Attributes:
    environment: The states of the environments.
    observation: [N, features].
    feedback: What preceded the observations; each entry is [N].
    policy: The state of the policy.
  """

  environment: Any
  observation: jax.Array
  feedback: Feedback
  policy: Any


class Rollout(NamedTuple):
  """T steps of N environments; each entry starts with [N, T].

  Attributes:
    observation: What the policy saw.
    feedback: What preceded the observation.
    action: What the policy drew.
    log_prob: The log probability of the action.
    value: What the value function estimated before the action.
    reward: The reward of the action.
    done: Whether the action was the last of its episode.
  """

  observation: jax.Array
  feedback: Feedback
  action: jax.Array
  log_prob: jax.Array
  value: jax.Array
  reward: jax.Array
  done: jax.Array


def start(
  model: nn.Module, environment: Environment, key: jax.Array, count: int
) -> Actor:
  """Starts `count` episodes."""
  states, observation = jax.vmap(environment.reset)(
    jax.random.split(key, count)
  )
  feedback = _before_first(count)
  return Actor(states, observation, feedback, model.init_state(count))


def _before_first(count: int) -> Feedback:
  return Feedback(
    jnp.full((count,), -1, jnp.int32),
    jnp.zeros((count,), jnp.float32),
    jnp.ones((count,), bool),
  )


def decide(
  model: nn.Module, params: Params, actor: Actor
) -> tuple[ActorCritic, Any]:
  """One step of the policy: logits [N, actions], values [N] and the state.

  The state starts from zero where an episode starts.
  """
  one = jax.tree.map(lambda x: x[:, None], actor.feedback)
  output, state = model.apply(
    {"params": params},
    actor.observation[:, None],
    actor.policy,
    segment_ids=episode_ids(one.first),
    feedback=one,
  )
  return ActorCritic(*(x[:, 0] for x in output)), state


def act(
  environment: Environment,
  key: jax.Array,
  actor: Actor,
  action: jax.Array,
  policy: Any,
) -> tuple[Actor, jax.Array, jax.Array]:
  """Acts in each environment, and starts a new episode where one ends.

  Args:
    environment: The environment.
    key: Decides on all that is random.
    actor: Where the environments are.
    action: [N] integers.
    policy: The state of the policy after its step.

  Returns:
    Where the environments are after the action, the rewards [N] and whether
    episodes ended [N].
  """

  def one(
    key: jax.Array, state: Any, action: jax.Array
  ) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
    for_step, for_reset = jax.random.split(key)
    state, observation, reward, done = environment.step(for_step, state, action)
    following = jax.tree.map(
      lambda fresh, old: jnp.where(done, fresh, old),
      environment.reset(for_reset),
      (state, observation),
    )
    return *following, reward, done

  count = action.shape[0]
  keys = jax.random.split(key, count)
  state, observation, reward, done = jax.vmap(one)(
    keys, actor.environment, action
  )
  following = Feedback(action.astype(jnp.int32), reward, done)
  feedback = jax.tree.map(
    lambda fresh, own: jnp.where(done, fresh, own),
    _before_first(count),
    following,
  )
  return Actor(state, observation, feedback, policy), reward, done


def collect(
  model: nn.Module,
  environment: Environment,
  params: Params,
  actor: Actor,
  key: jax.Array,
  steps: int,
) -> tuple[Actor, Rollout]:
  """Takes `steps` steps in each environment, with actions of the policy.

  Returns:
    Where the environments are then, and the steps.
  """

  def step(actor: Actor, key: jax.Array) -> tuple[Actor, Rollout]:
    for_action, for_step = jax.random.split(key)
    output, policy = decide(model, params, actor)
    action = jax.random.categorical(for_action, output.logits)
    following, reward, done = act(environment, for_step, actor, action, policy)
    taken = Rollout(
      actor.observation,
      actor.feedback,
      action,
      log_probability(output.logits, action),
      output.value,
      reward,
      done,
    )
    return following, taken

  actor, taken = jax.lax.scan(step, actor, jax.random.split(key, steps))
  return actor, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), taken)


def log_probability(logits: jax.Array, action: jax.Array) -> jax.Array:
  """Log probabilities [...] of actions [...] under logits [..., actions]."""
  logs = jax.nn.log_softmax(logits)
  return jnp.take_along_axis(logs, action[..., None], -1)[..., 0]


def evaluate(
  model: nn.Module,
  environment: Environment,
  params: Params,
  key: jax.Array,
  episodes: int,
) -> jax.Array:
  """The mean return of the policy's likeliest actions in new episodes.

  Args:
    model: The policy.
    environment: The environment.
    params: The parameters of the policy.
    key: Decides on the episodes.
    episodes: The number of episodes, which run at the same time.

  Returns:
    The mean return in each piece of the episodes, [pieces].
  """
  for_start, for_steps = jax.random.split(key)
  actor = start(model, environment, for_start, episodes)

  def step(
    carry: tuple[Actor, jax.Array], key: jax.Array
  ) -> tuple[tuple[Actor, jax.Array], jax.Array]:
    actor, is_going = carry
    output, policy = decide(model, params, actor)
    action = jnp.argmax(output.logits, -1)
    actor, reward, done = act(environment, key, actor, action, policy)
    return (actor, is_going & ~done), jnp.where(is_going, reward, 0).mean()

  keys = jax.random.split(for_steps, environment.horizon)
  _, rewards = jax.lax.scan(step, (actor, jnp.ones(episodes, bool)), keys)
  return rewards.reshape(environment.pieces, -1).sum(1)
