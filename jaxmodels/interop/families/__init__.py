"""Families of published models, one file per family.

A file has `read`, which makes a model from a `config.json`; `write`, which
makes a config from a model; `rules`, which name the tensors of each parameter;
and a record `FAMILY` of these.
"""

import difflib
import importlib
import pkgutil

from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family

__all__ = ["FAMILIES", "family_of"]


def _found() -> dict[str, Family]:
  names = sorted(module.name for module in pkgutil.iter_modules(__path__))
  modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
  families = [m.FAMILY for m in modules if hasattr(m, "FAMILY")]
  return {family.name: family for family in families}


FAMILIES: dict[str, Family] = _found()


def family_of(config: Config) -> Family:
  """The family whose `matches` accepts a config.

  Raises:
    FolderError: There is none; near names are listed.
  """
  for family in FAMILIES.values():
    if family.matches(config):
      return family
  kind = config.get("model_type")
  known = sorted({t for f in FAMILIES.values() for t in f.model_types})
  near = difflib.get_close_matches(str(kind), known, 3, 0.6)
  hint = f"known are {', '.join(known)}"
  if near:
    hint = f"did you mean {' or '.join(near)}?"
  raise FolderError(f"{config.where}: unknown model_type {kind!r}; {hint}")
