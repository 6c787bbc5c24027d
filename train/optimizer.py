"""AdamW, its schedule, and which parameters decay."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.config import Optimizer
from train.norm import norm


def schedule(config: Optimizer, steps: int) -> optax.Schedule:
  """Returns the learning rate as a function of the updates so far.

  It rises linearly over the first `warmup_steps` updates, the last of which
  has the highest rate, falls by half a cosine, and is at its floor from update
  `decay_steps` on. The rise is cut where it would outlast the run.

  Args:
    config: Of the optimizer.
    steps: Of the run, where the cosine ends unless `decay_steps` is given.
  """
  end = steps if config.decay_steps is None else config.decay_steps
  warmup = min(config.warmup_steps, end - 1)

  def rate(count: Any) -> jax.Array:
    # Counted from one, or the first update would have a rate of 0.
    step = jnp.asarray(count).astype(jnp.float32) + 1.0
    rise = step / max(warmup, 1)
    share = jnp.clip((step - warmup) / (end - warmup), 0.0, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(math.pi * share))
    fall = config.floor + (1.0 - config.floor) * cosine
    return config.learning_rate * jnp.where(step < warmup, rise, fall)

  return rate


def decay_mask(params: Any, names: tuple[str, ...]) -> Any:
  """Says for every parameter whether it decays.

  By name and not by rank alone, because a stack of layers gives its vectors
  a second axis.

  Args:
    params: Parameters, nested mappings.
    names: Last parts of the paths of those that decay.

  Returns:
    Booleans in the shape of the parameters: true for the named ones of two or
    more dimensions.
  """

  def decays(path: tuple[Any, ...], leaf: Any) -> bool:
    name = path[-1].key if hasattr(path[-1], "key") else str(path[-1])
    return leaf.ndim >= 2 and name in names

  return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(
  config: Optimizer, rate: optax.Schedule
) -> optax.GradientTransformation:
  """Builds the transformation of gradients into updates.

  Args:
    config: Of the optimizer.
    rate: The learning rate by step.
  """
  adamw = optax.adamw(
    rate,
    b1=config.b1,
    b2=config.b2,
    eps=config.epsilon,
    weight_decay=config.weight_decay,
    mask=lambda params: decay_mask(params, config.decay_names),
  )
  if config.clip is None:
    return _own_promotion(adamw)
  return _own_promotion(optax.chain(_clip_by_global_norm(config.clip), adamw))


def _clip_by_global_norm(largest: float) -> optax.GradientTransformation:
  """As optax has it, with a norm that float16 does not make infinite."""

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    del params
    size = norm(updates)

    def clip(x: jax.Array) -> jax.Array:
      clipped = (x.astype(jnp.float32) / size) * largest
      return jnp.where(size < largest, x, clipped.astype(x.dtype))

    return jax.tree.map(clip, updates), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _own_promotion(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Lets optax promote dtypes as it was written to.

  Its Adam raises a float to an int32 count, which strict promotion refuses;
  the rest of a program can still be strict.
  """

  def update(updates: Any, state: Any, params: Any = None) -> Any:
    with jax.numpy_dtype_promotion("standard"):
      return inner.update(updates, state, params)

  return optax.GradientTransformation(inner.init, update)
