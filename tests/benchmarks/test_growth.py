"""The work and the memory of every mixer's gradient grow linearly with L."""

import json
import re

import jax
import pytest

from benchmarks import growth
from jaxmodels.analysis import hlo
from jaxmodels.mixers import MIXERS
from tests.mixers import slow_but

LINEAR = [name for name in MIXERS if name not in growth.QUADRATIC]
COUNTED = [name for name in LINEAR if name not in growth.IN_PLACE]
WIDTH = 32


@pytest.mark.parametrize("name", slow_but(COUNTED))
def test_work_grows_linearly(name):
  """Traces alone, at lengths where "auto" no longer changes the form."""
  short, long = (growth.counted(name, n, WIDTH) for n in (65536, 131072))
  assert long < 1.1 * short


@pytest.mark.parametrize("name", slow_but(LINEAR, ()))
def test_memory_grows_linearly(name):
  short, long = (growth.temporary(name, n, WIDTH) for n in (4096, 8192))
  assert long < 1.1 * short


@pytest.mark.parametrize("name", slow_but(growth.IN_PLACE, ()))
def test_no_round_of_a_loop_touches_all_keys(name):
  """It adds some rows in place."""
  length, heads = 1024, 4
  function, arguments = growth.gradient(name, length, WIDTH)
  text = jax.jit(function).lower(*arguments).compile().as_text()
  whole = f"f32[1,{length},{heads},{WIDTH // heads}]"
  work = re.compile(" = " + re.escape(whole) + r"\S* (\w[\w-]*)\(")
  found = {
    match[1]
    for one in hlo.instructions(text)
    if one.times > 1 and (match := work.search(one.line))
  }
  in_place = {"scatter", "dynamic-update-slice"}  # By the version of XLA.
  assert found & in_place
  assert found <= in_place | {"parameter", "get-tuple-element", "fusion"}


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
