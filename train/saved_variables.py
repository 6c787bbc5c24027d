"""The variables in a checkpoint, with the parameters for evaluation."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import serialization

from train.config import Config
from train.errors import UserError, described
from train.optimizer import averaging_state, evaluation_params, make_optimizer


def saved_params(config: Config, state: Mapping[str, Any]) -> Any:
  """Returns the parameters for evaluation from the state of a checkpoint.

  Args:
    config: The config of the checkpoint.
    state: Its state, nested dictionaries of arrays.

  Raises:
    UserError: The state is not that of the optimizer of the config.
  """
  params = state["params"]
  try:
    optimizer = make_optimizer(config.optimizer, config.steps)
    shapes = jax.eval_shape(optimizer.init, params)
    if averaging_state(shapes) is None:
      return params
    found = serialization.from_state_dict(shapes, state["opt_state"])
    return jax.device_get(evaluation_params(found, params))
  # What a checkpoint holds is not known; the optimizer may be the user's own.
  except Exception as error:
    raise UserError(
      f"the optimizer state does not fit config.optimizer: {described(error)}"
    ) from error


def saved_variables(config: Config, state: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what `model.apply` takes, from the state of a checkpoint.

  Args:
    config: As for `saved_params`.
    state: As for `saved_params`.

  Returns:
    "params", the parameters for evaluation, and the model's other collections.

  Raises:
    UserError: As for `saved_params`.
  """
  params = saved_params(config, state)
  return {"params": params, **state.get("variables", {})}
