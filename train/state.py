"""The training state: what a step reads and returns beside the batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from jaxmodels.models.lora import FROZEN, LoRA
from train.losses.base import keywords


class TrainState(struct.PyTreeNode):
  """The state of a run between two steps.

  Attributes:
    step: Number of updates so far, int32 scalar.
    params: Parameters of the model.
    variables: Its other collections of variables, by name: running statistics,
      frozen random features. The optimizer does not change them.
    opt_state: State of the optimizer.
    rng: Key data of the run, uint32. It never changes: each step folds its
      number into it, so a resumed run draws the same numbers.
    stopped: Set by the first update that is not finite. Neither that update
      nor a later one is applied, so the state reproduces the failure.
  """

  step: jax.Array
  params: Any
  variables: Any
  opt_state: Any
  rng: jax.Array
  stopped: jax.Array


def initial_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  example: Any,
) -> Callable[..., TrainState]:
  """Returns the function that draws the variables of a new run.

  Args:
    model: A module that takes inputs, and `segment_ids` if the data have them.
    optimizer: Of the parameters.
    example: Arrays or shapes of one example, without a batch axis; or L, of
      tokens `[L]`.

  Returns:
    Maps the seed of everything random in the run, uint32, to the state before
    the first step. Its second argument may be variables that replace those of
    `base_variables`, which are then not drawn. It is called under `jax.jit`:
    one program serves all seeds, and only the shapes of the forward pass are
    worked out, not its values, which nothing here uses.
  """
  if isinstance(example, int):
    example = {"inputs": jax.ShapeDtypeStruct((example,), jnp.int32)}

  def build(seed: Any, base: Any = None) -> TrainState:
    params_key, run_key = jax.random.split(jax.random.key(seed))
    batch = jax.tree.map(
      lambda x: jnp.zeros((1, *x.shape), x.dtype), dict(example)
    )
    variables = dict(model.init(params_key, batch["inputs"], **keywords(batch)))
    variables.pop("losses", None)
    if base is not None:
      variables = _replaced(model, variables, base)
    params = variables.pop("params")
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      variables=variables,
      opt_state=optimizer.init(params),
      rng=jax.random.key_data(run_key),
      stopped=jnp.zeros((), bool),
    )

  return build


def base_variables(model: nn.Module, state: TrainState) -> Any:
  """The variables of a model; of a `LoRA`, those of the model inside."""
  if isinstance(model, LoRA):
    return state.variables[FROZEN]["base"]
  return {"params": state.params, **state.variables}


def _replaced(
  model: nn.Module, variables: Mapping[str, Any], base: Any
) -> dict[str, Any]:
  """Returns variables of a model with other `base_variables`."""
  if isinstance(model, LoRA):
    frozen = {**variables[FROZEN], "base": base}
    return {**variables, FROZEN: frozen}
  return {**variables, **base}


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  seed: int,
  example: Any,
) -> TrainState:
  """Draws the variables of a new run on one device: see `initial_state`."""
  draw = initial_state(model, optimizer, example)
  return jax.jit(draw)(np.uint32(seed))
