"""A file is read tensor by tensor: the memory of the host stays small."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxmodels.interop import folder as files
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import FAMILIES
from jaxmodels.interop.layers import Layers

pytestmark = pytest.mark.slow

CONFIG = {
  "model_type": "mamba2",
  "hidden_size": 768,
  "n_groups": 1,
  "num_heads": 24,
  "num_hidden_layers": 24,
  "tie_word_embeddings": True,
  "vocab_size": 50288,
}
# Prints the size of the model and the largest memory of the process, in MiB,
# before and after loading.
PROGRAM = """
import json, re, sys
import jax
jax.config.update("jax_platforms", "cpu")
from jaxmodels import interop

def peak():
  status = open("/proc/self/status").read()
  return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) >> 10

jax.numpy.zeros(3).block_until_ready()
before = peak()
_, variables = interop.load(sys.argv[1], scan_layers=sys.argv[2] == "scan")
size = sum(x.nbytes for x in jax.tree.leaves(variables)) >> 20
print(json.dumps([size, before, peak()]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of 490 MiB, written without the whole model in memory."""
  folder = tmp_path_factory.mktemp("large")
  family = FAMILIES["mamba2"]
  model = family.read(Config(CONFIG))
  shapes = Layers(model).shapes
  rng = np.random.default_rng(0)

  def tensors():
    for rule in (rule for rule in family.rules(model) if not rule.optional):
      ours = [rng.standard_normal(shapes[p], np.float32) for p in rule.ours]
      yield from zip(rule.theirs, rule.write(ours), strict=True)

  files.write_tensors(folder, tensors(), 1 << 30)
  files.write_config(folder, CONFIG)
  return folder


@pytest.mark.parametrize("layers", ["unrolled", "scan"])
def test_loading_needs_the_model_and_one_tensor(folder, layers):
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM, folder, layers],
    capture_output=True,
    text=True,
    check=True,
  )
  size, before, after = json.loads(run.stdout.splitlines()[-1])
  largest = CONFIG["vocab_size"] * CONFIG["hidden_size"] * 4 >> 20
  assert size == 492
  # The device of a CPU is the host: the model itself is in this memory. Beside
  # it there may be the largest tensor twice, and the pages of an open file.
  assert after - before - size < 2 * largest + 64
