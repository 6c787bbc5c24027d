"""The training state: what a step reads and returns beside the batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct


class TrainState(struct.PyTreeNode):
  """The state of a run between two steps.

  Attributes:
    step: Number of updates so far, int32 scalar.
    params: Parameters of the model.
    opt_state: State of the optimizer.
    rng: Key data of the run, uint32. It never changes: each step folds its
      number into it, so a resumed run draws the same numbers.
    stopped: Set by the first update that is not finite. Neither that update
      nor a later one is applied, so the state reproduces the failure.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  rng: jax.Array
  stopped: jax.Array


def initial_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  seed: int,
  length: int,
) -> Callable[[], TrainState]:
  """Returns the function that draws the parameters of a new run.

  Args:
    model: A module with the call of `LanguageModel`.
    optimizer: Of the parameters.
    seed: Of everything random in the run.
    length: Tokens per sequence.

  Returns:
    Gives the state before the first step; to be called under `jax.jit`, where
    only the shapes of the forward pass are worked out, not its values, which
    nothing here uses. It raises a ValueError for a model with variables other
    than parameters.
  """

  def build() -> TrainState:
    params_key, run_key = jax.random.split(jax.random.key(seed))
    tokens = jnp.zeros((1, length), jnp.int32)
    variables = model.init(params_key, tokens)
    _check_collections(model, variables)
    params = variables["params"]
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
      rng=jax.random.key_data(run_key),
      stopped=jnp.zeros((), bool),
    )

  return build


def _check_collections(model: nn.Module, variables: Mapping[str, Any]) -> None:
  """Refuses a model with variables that a run would silently lose."""
  others = sorted(set(variables) - {"params"})
  if others:
    raise ValueError(
      f"{type(model).__name__} has variables in {', '.join(others)}; a run "
      'keeps and trains those in "params" only'
    )


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  seed: int,
  length: int,
) -> TrainState:
  """Draws the parameters of a new run on one device: see `initial_state`."""
  return jax.jit(initial_state(model, optimizer, seed, length))()
