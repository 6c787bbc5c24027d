"""The config of a saved run, which may be somebody else's."""

from collections.abc import Collection
from typing import Any

from train.config import serialize, trust
from train.config.schema import Config
from train.errors import UserError


def read_config(document: Any, trusted: Collection[str] = ()) -> Config:
  """Returns the config that a checkpoint holds; see `serialize.from_json`.

  Args:
    document: What was read, perhaps of somebody else's run.
    trusted: Modules and packages whose classes it may name too.

  Raises:
    UserError: It is no config, or names what is not trusted.
  """
  try:
    config = serialize.from_json(document, trusted)
  except trust.NotTrustedError as error:
    source = trust.source_of(document)
    if source is None:
      raise
    raise UserError(
      f"{error}, or --trust={source}, the config that the run was started with"
    ) from error
  if not isinstance(config, Config):
    kind = type(config).__name__
    raise UserError(f"the saved config is a {kind}, not a Config")
  if not hasattr(config.data, "open"):
    kind = type(config.data).__name__
    raise UserError(f"the data of the saved config are of type {kind}")
  if not hasattr(config.optimizer, "transformation"):
    kind = type(config.optimizer).__name__
    raise UserError(f"the optimizer of the saved config is of type {kind}")
  return config
