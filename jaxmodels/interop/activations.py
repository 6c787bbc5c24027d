"""Names of activations in a `config.json`, and those of our layers."""

from collections.abc import Mapping

from jaxmodels.interop.config import Config, FolderError

__all__ = ["FLA", "TRANSFORMERS", "read_activation", "written_activation"]

# Our names by those of transformers and of flash-linear-attention (fla). Where
# several of theirs are the same function, the first one is written.
TRANSFORMERS = {
  "silu": "silu",
  "swish": "silu",
  "gelu": "gelu",
  "gelu_python": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "relu": "relu",
  "relu2": "relu2",
  "sigmoid": "sigmoid",
}
FLA = {
  "silu": "silu",
  "swish": "silu",
  "gelu": "gelu_tanh",
  "relu": "relu",
  "sqrelu": "relu2",
  "sigmoid": "sigmoid",
  "logsigmoid": "log_sigmoid",
}


def read_activation(
  config: Config,
  key: str,
  default: str,
  names: Mapping[str, str] = TRANSFORMERS,
) -> str:
  """The name of `jaxmodels.layers.mlp.ACTIVATIONS` that a key stands for.

  Args:
    config: The config.
    key: The key of the activation.
    default: The value in the public implementation, if the key is missing.
    names: Our names by theirs.
  """
  name = config.get(key, default)
  if name not in names:
    raise FolderError(
      f"{config.where}: {key} is {name!r}, but only {', '.join(names)} are "
      "supported"
    )
  return names[name]


def written_activation(
  name: str, names: Mapping[str, str] = TRANSFORMERS
) -> str:
  """The first of their names for one of our activations.

  It is our own name if they have none. The config then reads as another model,
  and `save` says so.
  """
  return next((theirs for theirs, ours in names.items() if ours == name), name)
