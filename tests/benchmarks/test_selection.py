"""The commands and the table of `benchmarks.selection`."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import selection
from train.config import command_line
from train.data.tasks import InductionHeads


def test_every_command_trains_its_mixer():
  for mixer in selection.MIXERS:
    words = selection.command(mixer, 3, "runs/x")
    assert words[:3] == ["python", "-m", "train"]
    config = command_line.parse(words[3 : words.index("--replicas")]).config
    (entry,) = config.model.mixers
    name, options = (entry, {}) if isinstance(entry, str) else entry
    assert name == mixer.split()[0]
    longest = selection.FACTORS[-1] * config.data.length
    assert options.get("max_length", longest) >= longest


class Finder:
  """A model that looks for the special token and copies what followed it."""

  def apply(self, variables, inputs):
    first = inputs.argmin(1)
    found = inputs[jnp.arange(len(inputs)), first + 1] * variables
    return jax.nn.one_hot(found, 16)[:, None], None


def test_accuracies_and_their_table():
  config = types.SimpleNamespace(data=InductionHeads(length=8))
  runs = [
    types.SimpleNamespace(config=config, model=model, variables=variables)
    for model in [Finder()]
    for variables in (np.int32(1), np.int32(0))
  ]
  right, wrong = selection.accuracies(runs, 20, 10)
  assert (right, wrong) == (1, 0)
  seeds = {64: [0.5, 1.0], 128: [0.25, 0.25]}
  found = [
    {"mixer": "one", "length": length, "seeds": values}
    for length, values in seeds.items()
  ]
  assert selection.table(found).splitlines()[-1] == (
    "| one | 0.75 (0.50 to 1.00) | 0.25 (0.25 to 0.25) |"
  )
