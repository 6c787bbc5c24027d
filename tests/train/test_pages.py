"""The configs of the pages train, and are evaluated, outside the repository."""

import pathlib
import subprocess
import sys

import pytest

from tests.test_pages import sections

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {
  "fading": (ROOT / "jaxmodels" / "mixers" / "README.md", "Your own mixer"),
  "counting": (
    ROOT / "train" / "data" / "README.md",
    "A data set of your own in the trainer",
  ),
}


def run(module, *words):
  done = subprocess.run(
    [sys.executable, "-m", module, *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize(
  "name", [pytest.param("fading", marks=pytest.mark.slow), "counting"]
)
def test_a_config_of_a_page_trains(name, tmp_path):
  page, heading = PAGES[name]
  blocks = [s.blocks for s in sections(page) if s.heading == heading]
  # Checks of the page itself are not part of the config.
  lines = "\n".join(*blocks).splitlines()
  code = [line for line in lines if "check_mixer" not in line]
  config = tmp_path / f"{name}.py"
  config.write_text("\n".join(code))
  workdir = f"--workdir={tmp_path / 'run'}"
  small = ("--config.steps=2", "--config.eval_every=2")
  run("train", f"--config={config}", workdir, *small)
  assert "loss" in run("train.evaluate", workdir, f"--trust={config}")
