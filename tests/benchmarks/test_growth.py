"""The work and the memory of every mixer's gradient grow linearly with L."""

import json

import pytest

from benchmarks import growth
from jaxmodels.mixers import MIXERS
from tests.mixers import slow_but

LINEAR = [name for name in MIXERS if name not in growth.QUADRATIC]
WIDTH = 32
# Its loop over chunks once added to the gradient of all keys in each round.
FAST = ("neighborhood_attention",)


@pytest.mark.parametrize("name", slow_but(LINEAR, FAST))
def test_work_grows_linearly(name):
  """Traces alone, at lengths where "auto" no longer changes the form."""
  short, long = (growth.counted(name, n, WIDTH) for n in (32768, 65536))
  assert long < 1.1 * short


@pytest.mark.parametrize("name", slow_but(LINEAR, ()))
def test_memory_grows_linearly(name):
  short, long = (growth.temporary(name, n, WIDTH) for n in (4096, 8192))
  assert long < 1.1 * short


@pytest.mark.parametrize("name", slow_but(growth.QUADRATIC, ()))
def test_work_of_the_exceptions_is_quadratic(name):
  short, long = (growth.counted(name, n, WIDTH) for n in (1024, 4096))
  assert long > 2 * short


@pytest.mark.slow
def test_command(tmp_path, capsys):
  file = tmp_path / "growth.json"
  flags = "--mixers s5 --lengths 64 128 --width 16 --rounds 1"
  growth.main([*flags.split(), "--compile-width", "16", "--json", str(file)])
  assert "s5" in capsys.readouterr().out
  content = json.loads(file.read_text())
  assert [point["length"] for point in content["growth"]] == [64, 128]
  assert all(point["processor"] > 0 for point in content["growth"])
  assert content["compile"][0]["processor_seconds"] > 0
