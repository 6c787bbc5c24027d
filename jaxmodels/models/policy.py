"""A recurrent actor-critic: observations in, action logits and values out."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection, wide
from jaxmodels.models.backbone import Backbone, State
from jaxmodels.ops.engine import checks

__all__ = ["ActorCritic", "Feedback", "RecurrentPolicy", "episode_ids"]


class Feedback(NamedTuple):
  """What the environment did before an observation; each entry is [B, L].

  Attributes:
    action: The action before the observation, an integer; -1 at the start of
      an episode.
    reward: The reward of that action; 0 at the start of an episode.
    first: Whether the observation is the first of its episode, a bool.
  """

  action: jax.Array
  reward: jax.Array
  first: jax.Array


class ActorCritic(NamedTuple):
  """What a policy computes, in float32 or wider.

  Attributes:
    logits: [B, L, actions]: the logits of the distribution of the action.
    value: [B, L]: the estimate of the discounted return.
  """

  logits: jax.Array
  value: jax.Array


def episode_ids(first: jax.Array) -> jax.Array:
  """Returns the segment ids of episodes that are packed in sequences.

  Args:
    first: [B, L] bools: whether an observation is the first of its episode.

  Returns:
    [B, L] int32. A sequence that starts in the middle of an episode starts
    with id 0, which continues the state.
  """
  return jnp.cumsum(first.astype(jnp.int32), axis=1)


class RecurrentPolicy(Backbone):
  """A policy and a value function that share one recurrent stack.

    x_t = W [observation_t, one_hot(action_{t-1}), reward_{t-1}, first_t] + b
    h = stack(x)
    logits_t = P h_t + p,  value_t = v h_t + c

  The same call computes whole rollouts, with several episodes per sequence,
  and single steps. The state starts from zero at the first observation of each
  episode, inside the scan of the mixer, as in Lu et al. 2023, "Structured State
  Space Models for In-Context Reinforcement Learning", arXiv:2303.03982. The
  action and the reward before an observation are inputs as in RL^2 (Duan et al.
  2016, arXiv:1611.02779), so that a policy can adapt to a hidden task within an
  episode. The initial P is orthogonal with the factor 0.01, so that the initial
  policy is near uniform (Andrychowicz et al. 2020, arXiv:2006.05990).

  It is a `Backbone` between dense maps, so its other fields are those of
  `Backbone`, and so is its state.

  Attributes:
    actions: The number of actions.
  """

  actions: int = dataclasses.field(kw_only=True)

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: State = None,
    *,
    segment_ids: jax.Array | None = None,
    feedback: Feedback | None = None,
  ) -> tuple[Any, State]:
    """Computes the distributions of the actions, and the values.

    Args:
      x: [B, L, features], the observations.
      state: The state of an earlier call, or of `init_state`; None is the zero
        state.
      segment_ids: [B, L] integers: a run of equal ids per episode, see
        `episode_ids`. Id 0 at the first observation continues `state`. None is
        one episode, which continues `state`.
      feedback: The actions and rewards before the observations. None leaves
        them out of the input; the parameters depend on this choice.

    Returns:
      The logits and values, an `ActorCritic`, and the state.

    Raises:
      ValueError: An argument has a wrong shape, or a field is wrong.
    """
    check_fields(self, "actions")
    name = type(self).__name__
    checks.shape(name, "x", x, (None, None, None), "[B, L, features]")
    checks.dtype(name, "x", x, jnp.floating, "real floating point")
    x = x.astype(wide(self.dtype))
    if feedback is not None:
      x = jnp.concatenate([x, self._encoded(feedback, x)], -1)
    x = projection(self, self.width, "input", use_bias=True, dtype=x.dtype)(x)
    x, state = super().__call__(x, state, segment_ids=segment_ids)
    x = x.astype(wide(self.dtype))
    logits = self._head("logits", self.actions, 0.01)(x)
    value = self._head("value", 1, 1.0)(x)
    return ActorCritic(logits, value[..., 0]), state

  def _encoded(self, feedback: Feedback, x: jax.Array) -> jax.Array:
    """The feedback as vectors [B, L, actions + 2] in the dtype of x."""
    for name, entry in feedback._asdict().items():
      name = f"feedback.{name}"
      checks.shape(type(self).__name__, name, entry, x.shape[:2], "[B, L]")
    # The vector of -1, which stands for no action, is zero.
    action = jax.nn.one_hot(feedback.action, self.actions, dtype=x.dtype)
    others = jnp.stack(
      [part.astype(x.dtype) for part in (feedback.reward, feedback.first)], -1
    )
    return jnp.concatenate([action, others], -1)

  def _head(self, name: str, features: int, scale: float) -> nn.Dense:
    """A dense map in float32 or wider."""
    return projection(
      self,
      features,
      name,
      use_bias=True,
      dtype=wide(self.dtype),
      kernel_init=nn.initializers.orthogonal(scale),
    )
