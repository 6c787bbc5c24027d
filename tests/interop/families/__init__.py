"""One file per family: configs of tiny models, and of published ones.

`TINY` is a list of configs as the public implementation writes them.
`PUBLISHED` is a list of configs and numbers of parameters.
"""

import importlib
import pkgutil

_MODULES = [
  importlib.import_module(f"{__name__}.{module.name}")
  for module in pkgutil.iter_modules(__path__)
]
TINY = [
  (module.__name__.rsplit(".", 1)[1], config)
  for module in _MODULES
  for config in module.TINY
]
PUBLISHED = [
  (module.__name__.rsplit(".", 1)[1], config, count)
  for module in _MODULES
  for config, count in module.PUBLISHED
]
