"""Chips to compile for, and the files that describe GPUs to the compiler."""

import fnmatch
import importlib.resources
import re
import tomllib
from pathlib import Path

import pytest

from jaxmodels.analysis import chips

GPUS = [name for name, chip in chips.SLICES.items() if chip.platform == "gpu"]
TARGETS = importlib.resources.files("jaxmodels.analysis") / "targets"


def field(text, name):
  return re.search(rf'^\s*{name}: "?(.*?)"?$', text, re.MULTILINE)[1]


@pytest.mark.parametrize("name", GPUS)
def test_the_file_of_a_gpu_has_its_memory_name_and_source(name):
  text = (TARGETS / f"{name}.txtpb").read_text()
  chip = chips.SLICES[name]
  assert int(field(text, "device_memory_size")) == chip.memory
  assert chips.CHIPS[field(text, "device_description_str")] == chip
  assert "https://github.com/openxla/xla at commit" in text


def test_a_wheel_has_the_files_of_gpus():
  root = Path(__file__).parents[2]
  project = tomllib.loads((root / "pyproject.toml").read_text())
  patterns = project["tool"]["setuptools"]["package-data"]["jaxmodels"]
  files = [f"analysis/targets/{file.name}" for file in TARGETS.iterdir()]
  assert len(files) == len(GPUS)
  for file in files:
    assert any(fnmatch.fnmatch(file, pattern) for pattern in patterns)


@pytest.mark.parametrize(
  "name", ["h100", "h100:0", "h100:08", "h100:2x2x2", "v5e:8", "h300:8"]
)
def test_a_wrong_slice_is_an_error_that_names_right_ones(name):
  with pytest.raises(ValueError, match=f"{name} is unknown: .*h100:4x8"):
    chips.slice_devices(name)


def test_jax_takes_three_quarters_of_a_gpu_and_all_of_a_tpu():
  assert chips.SLICES["v5e"].default_memory == chips.SLICES["v5e"].memory
  assert 4 * chips.SLICES["h100"].default_memory == 3 * 84942979072


@pytest.mark.gpu_aot
@pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU)
@pytest.mark.parametrize("name", GPUS)
def test_gpus_of_several_hosts_are_of_their_kind(name):
  devices = chips.slice_devices(f"{name}:2x4")
  hosts = [device.process_index for device in devices]
  assert hosts == [0] * 4 + [1] * 4
  assert chips.CHIPS[devices[0].device_kind] == chips.SLICES[name]
  assert len(chips.slice_devices(f"{name}:3")) == 3


def test_where_the_plugin_did_not_start_one_line_says_what_to_set(monkeypatch):
  def topology(*_, **__):
    raise NotImplementedError("topology not implemented for cuda")

  monkeypatch.setattr(chips, "is_there", lambda _: True)
  monkeypatch.setattr(chips.topologies, "get_topology_desc", topology)
  with pytest.raises(ValueError, match="start Python with JAX_PLATFORMS=cpu"):
    chips.slice_devices("h100:8")
