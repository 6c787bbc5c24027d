"""Proximal policy optimization of a recurrent policy, as pure functions."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxmodels.models.policy import ActorCritic, episode_ids
from train.config.checks import Fields
from train.norm import norm
from train.reinforcement import rollout
from train.reinforcement.environments import Environment
from train.reinforcement.rollout import Actor, Rollout, log_probability


@dataclasses.dataclass(frozen=True)
class Ppo:
  """Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347).

  An update takes a rollout from all environments, then several epochs of
  gradient steps on it. A minibatch has whole rollouts of some environments, and
  the policy runs over them from its state at the start of the rollout.

  Attributes:
    discount: Weight of the next step's return, gamma.
    trace: Decay of generalized advantage estimation, lambda (Schulman et al.
      2015, arXiv:1506.02438).
    clip: How far the ratio of new and old probability may be from 1 until the
      gradient vanishes.
    value_weight: Weight of half the squared error of the values.
    entropy_weight: Weight of the entropy of the policy, which is maximised.
    epochs: Times that each rollout is used.
    minibatches: Gradient steps per epoch, a divisor of the environments.
  """

  discount: float = 0.99
  trace: float = 0.95
  clip: float = 0.2
  value_weight: float = 0.5
  entropy_weight: float = 0.01
  epochs: int = 4
  minibatches: int = 4

  def check(self, key: str, environments: int) -> None:
    """Raises a UserError that names the first field with a wrong value."""
    fields = Fields(self, key)
    for name in ("discount", "trace"):
      fields.require(0 <= getattr(self, name) <= 1, name, "0 to 1")
    fields.positive("clip")
    for name in ("value_weight", "entropy_weight"):
      fields.require(getattr(self, name) >= 0, name, "0 or more")
    fields.count("epochs", "minibatches", least=1)
    fields.require(
      environments % self.minibatches == 0,
      "minibatches",
      f"a divisor of config.environments ({environments})",
    )


class Learner(NamedTuple):
  """What does not change in a run.

  Attributes:
    model: The policy, a `RecurrentPolicy`.
    environment: What it acts in.
    ppo: The options of the algorithm.
    optimizer: The transformation of gradients.
    environments: How many run at the same time, N.
    steps: Steps of each environment per update, T.
  """

  model: nn.Module
  environment: Environment
  ppo: Ppo
  optimizer: optax.GradientTransformation
  environments: int
  steps: int


class State(NamedTuple):
  """What changes in a run.

  Attributes:
    params: The parameters of the policy.
    moments: The state of the optimizer.
    actor: Where the environments are.
    seed: The seed of the run, uint32.
    updates: The number of updates so far, int32.
  """

  params: Any
  moments: Any
  actor: Actor
  seed: jax.Array
  updates: jax.Array


def initial_state(learner: Learner, seed: jax.Array) -> State:
  """Draws the parameters and the first episodes of a run."""
  for_params, for_start = jax.random.split(jax.random.key(seed))
  actor = rollout.start(
    learner.model, learner.environment, for_start, learner.environments
  )
  one = jax.tree.map(lambda x: x[:1, None], (actor.observation, actor.feedback))
  params = learner.model.init(for_params, one[0], feedback=one[1])["params"]
  moments = learner.optimizer.init(params)
  return State(params, moments, actor, seed, jnp.zeros((), jnp.int32))


def advantages(
  reward: jax.Array,
  value: jax.Array,
  done: jax.Array,
  last_value: jax.Array,
  discount: float,
  trace: float,
) -> jax.Array:
  """Generalized advantage estimation.

    e_t = r_t + gamma (1 - done_t) V_{t+1} - V_t
    A_t = e_t + gamma lambda (1 - done_t) A_{t+1}

  Args:
    reward: r, [N, T].
    value: V, [N, T].
    done: Whether an episode ends after the step, [N, T].
    last_value: V of the observation after the last step, [N].
    discount: gamma.
    trace: lambda.

  Returns:
    A, [N, T].
  """
  goes_on = 1 - done.astype(reward.dtype)
  following = jnp.concatenate([value[:, 1:], last_value[:, None]], 1)
  error = reward + discount * goes_on * following - value

  def step(
    advantage: jax.Array, now: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    error, decay = now
    advantage = error + decay * advantage
    return advantage, advantage

  rows = (error.T, discount * trace * goes_on.T)
  _, found = jax.lax.scan(step, jnp.zeros_like(last_value), rows, reverse=True)
  return found.T


def loss(
  output: ActorCritic,
  taken: Rollout,
  advantage: jax.Array,
  ppo: Ppo,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The clipped loss of some steps, and its parts.

  Args:
    output: Of the new policy, [B, T].
    taken: Steps of the old policy, [B, T].
    advantage: [B, T], made from the old values.
    ppo: The options.

  Returns:
    The loss, and the policy loss, the value loss, the entropy in nats, and the
    share of the steps whose ratio is beyond the clip.
  """
  scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
  log_prob = log_probability(output.logits, taken.action)
  ratio = jnp.exp(log_prob - taken.log_prob)
  bounded = jnp.clip(ratio, 1 - ppo.clip, 1 + ppo.clip)
  policy = -jnp.minimum(ratio * scaled, bounded * scaled).mean()
  target = advantage + taken.value
  value = jnp.square(output.value - target).mean() / 2
  logs = jax.nn.log_softmax(output.logits)
  entropy = -(jnp.exp(logs) * logs).sum(-1).mean()
  total = policy + ppo.value_weight * value - ppo.entropy_weight * entropy
  beyond = jnp.abs(ratio - 1) > ppo.clip
  parts = {
    "loss": total,
    "policy_loss": policy,
    "value_loss": value,
    "entropy": entropy,
    "clipped": beyond.astype(jnp.float32).mean(),
  }
  return total, parts


def rollout_loss(
  learner: Learner,
  params: Any,
  policy: Any,
  taken: Rollout,
  advantage: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of whole rollouts, in one call of the policy.

  Args:
    learner: The learner.
    params: The parameters.
    policy: The state of the policy at the start of the rollouts.
    taken: The rollouts; several episodes are packed in each.
    advantage: See `loss`.
  """
  output, _ = learner.model.apply(
    {"params": params},
    taken.observation,
    policy,
    segment_ids=episode_ids(taken.feedback.first),
    feedback=taken.feedback,
  )
  return loss(output, taken, advantage, learner.ppo)


def update(
  learner: Learner, state: State
) -> tuple[State, dict[str, jax.Array]]:
  """Takes a rollout, and improves the policy by it.

  Returns:
    The new state, and the metrics: the means over all gradient steps of what
    `loss` returns, of the norm of the gradient, and of the rollout: the reward
    per step, and the return per episode that ended.
  """
  key = jax.random.fold_in(jax.random.key(state.seed), state.updates + 1)
  for_rollout, for_order = jax.random.split(key)
  ppo, before = learner.ppo, state.actor
  actor, taken = rollout.collect(
    learner.model,
    learner.environment,
    state.params,
    before,
    for_rollout,
    learner.steps,
  )
  last, _ = rollout.decide(learner.model, state.params, actor)
  advantage = advantages(
    taken.reward, taken.value, taken.done, last.value, ppo.discount, ppo.trace
  )
  params, moments, parts = _epochs(
    learner, state, (before.policy, taken, advantage), for_order
  )
  ended = taken.done.astype(jnp.float32).sum()
  metrics = {
    "return": taken.reward.sum() / jnp.maximum(ended, 1),
    "reward": taken.reward.mean(),
    **jax.tree.map(jnp.mean, parts),
  }
  following = State(params, moments, actor, state.seed, state.updates + 1)
  return following, metrics


def _epochs(
  learner: Learner, state: State, data: Any, key: jax.Array
) -> tuple[Any, Any, dict[str, jax.Array]]:
  """Gradient steps on minibatches of environments, in a new order per epoch.

  Args:
    learner: The learner.
    state: Has the parameters and the moments.
    data: Arguments of `rollout_loss` after the parameters.
    key: Decides on the order.

  Returns:
    Parameters, moments, and metrics [gradient steps].
  """
  ppo, count = learner.ppo, learner.environments
  gradient = jax.grad(rollout_loss, argnums=1, has_aux=True)

  def step(carry: tuple[Any, Any], rows: jax.Array) -> tuple[Any, Any]:
    params, moments = carry
    chosen = jax.tree.map(lambda x: x[rows], data)
    slope, parts = gradient(learner, params, *chosen)
    parts["grad_norm"] = norm(slope)
    changes, moments = learner.optimizer.update(slope, moments, params)
    return (optax.apply_updates(params, changes), moments), parts

  orders = jax.vmap(lambda key: jax.random.permutation(key, count))(
    jax.random.split(key, ppo.epochs)
  )
  rows = orders.reshape(ppo.epochs * ppo.minibatches, -1)
  carry, parts = jax.lax.scan(step, (state.params, state.moments), rows)
  return *carry, parts
