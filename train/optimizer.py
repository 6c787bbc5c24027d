"""AdamW, its schedule, and which parameters decay."""

from typing import Any

import jax
import optax

from train.config import Optimizer


def schedule(config: Optimizer, steps: int) -> optax.Schedule:
  """Returns the learning rate as a function of the updates so far.

  It rises linearly from 0 over `warmup_steps`, falls by half a cosine until
  `decay_steps`, and stays at the floor after. The rise is cut where it would
  outlast the run.

  Args:
    config: Of the optimizer.
    steps: Of the run, where the cosine ends unless `decay_steps` is given.
  """
  end = steps if config.decay_steps is None else config.decay_steps
  warmup = min(config.warmup_steps, end - 1)
  return optax.schedules.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup else config.learning_rate,
    peak_value=config.learning_rate,
    warmup_steps=warmup,
    decay_steps=end,
    end_value=config.learning_rate * config.floor,
  )


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
    return adamw
  return optax.chain(optax.clip_by_global_norm(config.clip), adamw)
