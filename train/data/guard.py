"""Keeps the files of a data set from choosing code that is imported.

tfds writes the Python class of every feature into `features.json`, and imports
the module that is named there when it reads the data set. A folder of data may
come from somebody else, so only tfds's own modules may be named, and classes
that have been imported before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.core.features import feature


@contextlib.contextmanager
def known_features() -> Iterator[None]:
  """Makes tfds refuse other features, by a `ValueError`, inside the context."""
  connector: Any = feature.FeatureConnector
  find = connector.__dict__["cls_from_name"]

  def guarded(cls: Any, name: str) -> Any:
    known = name in cls._registered_features
    if not known and not name.startswith("tensorflow_datasets."):
      raise ValueError(
        f"the data set names the class {name!r}, of a module that is not part"
        " of tfds: import that module in the config, if you trust its code"
      )
    return find.__get__(None, cls)(name)

  connector.cls_from_name = classmethod(guarded)
  try:
    yield
  finally:
    connector.cls_from_name = find
