"""One file per family of mixers: its plain equation, and its records.

The equation is that of the paper as a loop over tokens, in numpy and float64,
of one document x [L, D]. It takes the parameters of the layer as a nested dict,
and the layer, of which it reads sizes and options only. A new mixer needs its
file in `jaxmodels.mixers` and a file here with `EXAMPLES`.
"""

import importlib
import pkgutil

from jaxmodels.testing.examples.example import MixerExample

__all__ = ["MIXERS"]

MIXERS: dict[str, MixerExample] = {
  record.name: record
  for file in pkgutil.iter_modules(__path__)
  if file.name != "parts"
  for record in importlib.import_module(f"{__name__}.{file.name}").EXAMPLES
}
