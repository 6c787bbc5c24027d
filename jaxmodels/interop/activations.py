"""Names of activations in a `config.json`, and those of our layers."""

from jaxmodels.interop.config import Config, FolderError

__all__ = ["read_activation", "written_activation"]

_OURS = {
  "silu": "silu",
  "swish": "silu",
  "gelu": "gelu",
  "gelu_python": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "relu": "relu",
  "relu2": "relu2",
}


def read_activation(config: Config, key: str, default: str) -> str:
  """The name of `jaxmodels.layers.mlp.ACTIVATIONS` that a key stands for.

  Args:
    config: The config.
    key: The key of the activation.
    default: The value in the public implementation, if the key is missing.
  """
  name = config.get(key, default)
  if name not in _OURS:
    raise FolderError(
      f"{config.where}: {key} is {name!r}, but only {', '.join(_OURS)} are "
      "supported"
    )
  return _OURS[name]


def written_activation(name: str) -> str:
  """The first of their names for one of our activations."""
  return next(theirs for theirs, ours in _OURS.items() if ours == name)
