"""Costs of gradients on TPUs that are not there, kernels included."""

import json

import jax
import pytest

from benchmarks import bundles, tpu, tpu_mixers
from benchmarks.cases import Sizes
from benchmarks.tpu import Cost
from jaxmodels.analysis import chips

COSTS = {
  ("s5", True): Cost(2**20, 128 * 300),
  ("gla", True): Cost(3 * 2**20, 128 * 50, 2, 128 * 60),
  ("gla", False): Cost(2**21, 128 * 900),
  ("lssl", True): Cost(failed="compiles for more than 9 s"),
}


class Known:
  """A compiler of known costs, which are asked for once each."""

  def __init__(self, limit):
    self.left = dict(COSTS)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def cost(self, name, make, mixer, *sizes, kernels):
    assert name == "v6e:1x1" and sizes == (2, 64, 1024, 8)
    return self.left.pop((mixer, kernels))


def test_a_page_has_rows_with_and_without_kernels(monkeypatch, tmp_path):
  """Cycles of a kernel are added; rows that are there are not made again."""
  monkeypatch.setattr(tpu_mixers, "Compiler", Known)
  monkeypatch.setattr(chips, "is_there", lambda: True)
  file, out = tmp_path / "rows.json", tmp_path / "page.md"
  mixers = ["s5", "gla", "lssl"]
  flags = f"--slices v6e:1x1 --length 64 --out {out} --mixers"
  tpu_mixers.main([*flags.split(), *mixers, "--json", str(file)])
  lines = out.read_text().splitlines()
  table = [line for line in lines if line.startswith("| ")]
  assert table[2:] == [
    "| gla | yes | 3.0 | 110 |",
    "| gla | no | 2.0 | 900 |",
    "| s5 | no | 1.0 | 300 |",
    "| lssl | no |  |  |",
  ]
  assert lines[-1] == "- lssl, v6e: compiles for more than 9 s"
  assert len(json.loads(file.read_text())["rows"]) == len(COSTS)
  monkeypatch.setattr(tpu_mixers, "_row", None)
  tpu_mixers.main([*flags.split(), *mixers, "--have", str(file)])
  assert out.read_text().splitlines()[3:] == lines[3:]


def test_without_libtpu_the_command_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setattr(chips, "is_there", lambda: False)
  assert tpu_mixers.main([]) == 1
  assert chips.MISSING in capsys.readouterr().err


@pytest.mark.parametrize(
  ("mixer", "params"),
  [
    ("gla", 4 * 64 * 64 + 16 * 64),  # Four maps of x, and the gate's two.
    ("sliding_attention", 4 * 64 * 64),
  ],
)
def test_the_gradient_of_a_mixer_has_its_sizes(mixer, params):
  _, (shapes, x, _) = tpu_mixers.gradient(mixer, 2, 16, 64, 8)
  sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
  assert x.shape == (2, 16, 64) and x.dtype == "bfloat16"
  assert params <= sum(sizes) < 1.5 * params


@pytest.mark.slow
@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
def test_a_program_and_its_kernels_are_compiled():
  """The kernels' cycles grow with the rows; a slow compilation ends."""
  op = bundles.gradient, "linear_attention", "pallas"
  with tpu.Compiler() as compiler:
    one, two = (
      compiler.cost("v5e:2x2", *op, Sizes(rows, 256, 8, 128), "bfloat16")
      for rows in (1, 2)
    )
    plain = compiler.cost(
      "v6e:2x2", tpu_mixers.gradient, "gla", 1, 256, 128, 2, kernels=False
    )
  assert one.kernels == two.kernels == 2 and not one.failed
  assert 1.9 * one.kernel_cycles < two.kernel_cycles < 2.1 * one.kernel_cycles
  assert not plain.kernels and plain.cycles > 0
  with tpu.Compiler(limit=0.1) as compiler:
    slow = compiler.cost("v5e:2x2", *op, Sizes(1, 256, 8, 128), "bfloat16")
  assert slow.failed == "compiles for more than 0 s"
