"""Prevents the files of a data set from importing arbitrary code.

tfds writes the Python class of every feature to `features.json`, and imports
its module when it reads the data set. A data folder may come from somebody
else, so it may name only classes of tfds and classes that are imported already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.core.features import feature


@contextlib.contextmanager
def known_features() -> Iterator[None]:
  """Makes tfds raise a `ValueError` for features of other modules."""
  connector: Any = feature.FeatureConnector
  find = connector.__dict__["cls_from_name"]

  def guarded(cls: Any, name: str) -> Any:
    known = name in cls._registered_features
    if not known and not name.startswith("tensorflow_datasets."):
      raise ValueError(
        f"the data set names the class {name!r}, which is not part of tfds: if"
        " you trust its code, import its module in the config"
      )
    return find.__get__(None, cls)(name)

  connector.cls_from_name = classmethod(guarded)
  try:
    yield
  finally:
    connector.cls_from_name = find
