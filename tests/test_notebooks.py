"""Every notebook runs from its first cell to its last, in a fresh kernel."""

import os
import pathlib
import re

import nbclient
import nbformat
import pytest

from jaxmodels.testing import tolerance
from tests.conftest import quick_flags

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEPS = 8


def read(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  return notebook


def printed(notebook, cell_id):
  """What a cell printed."""
  (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
  return "".join(o.text for o in cell.outputs if o.output_type == "stream")


@pytest.fixture
def execute(tmp_path, monkeypatch):
  """Runs a notebook away from the repository, for a few steps."""
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("JAXMODELS_NOTEBOOK_STEPS", str(STEPS))
  # One device: the eight of the other tests would share two cores.
  flags = re.sub(r"--xla_force_\S+", "", os.environ.get("XLA_FLAGS", ""))
  monkeypatch.setenv("XLA_FLAGS", flags + quick_flags())
  # Kernel and client keep their files and settings here, not at home.
  for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
    monkeypatch.setenv(name, str(tmp_path / name.lower()))
  folder = tmp_path / "work"
  folder.mkdir()

  def run(path):
    notebook = read(path)
    client = nbclient.NotebookClient(
      notebook,
      timeout=300,
      kernel_name="python3",
      resources={"metadata": {"path": str(folder)}},
    )
    client.execute()  # Raises what a cell raised.
    assert not list(folder.iterdir())
    return notebook

  return run


def test_there_are_notebooks():
  assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_run_is_stored(path):
  for cell in read(path).cells:
    if cell.cell_type == "code":
      assert cell.execution_count is None and not cell.outputs
      assert not cell.metadata


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, execute):
  notebook = execute(path)
  check = CHECKS.get(path.stem)
  assert check is not None, f"say in CHECKS what {path.name} should show"
  check(notebook)


def check_new_mixer(notebook):
  """The check notices both faults, the state carries on, the loss falls."""
  decay, leak = printed(notebook, "broken").strip().split("\n\n")
  assert re.search(r"^associative: ", decay, re.MULTILINE)
  assert re.search(r"^  .* is off by .* associative, ", decay, re.MULTILINE)
  assert re.search(r"^chunked: leaked reset; ", leak, re.MULTILINE)
  assert "no segment ids" not in leak and "resets: none" not in leak

  numbers = re.findall(r"\d\.\S+", printed(notebook, "packing"))
  packed, cut, difference = map(float, numbers)
  assert max(packed, cut) < 1e-4 < 0.1 < difference

  losses = re.findall(
    r"validation  loss \S+  bits_per_token (\S+)",
    printed(notebook, "training"),
  )
  first, *_, last = map(float, losses)
  assert 7.5 < first < 8.5  # Uniform over 257 tokens is 8.0 bits.
  assert last < first - 1.0

  before, after = re.findall(r"(\d+) bytes", printed(notebook, "sample"))
  assert before == after


def check_scan_and_recurrence(notebook):
  """Forms agree to rounding, what is naive does not; chunks save memory."""
  forms = "recurrent", "associative", "chunked", "chunk_parallel"

  def rows(cell_id):
    """The numbers behind each op and form."""
    found = re.findall(
      r"^(\w+) +(\w+) +(.*\d)$", printed(notebook, cell_id), re.MULTILINE
    )
    assert {form for _, form, _ in found} == set(forms)
    return [(op, form, rest.split()) for op, form, rest in found]

  errors = rows("errors")
  assert len(errors) == 2 * len(forms) * 2
  for *_, (dtype, y, state) in errors:
    # A state of bfloat16 tokens is float32, and as exact.
    assert 0 < float(y) < tolerance(dtype)
    assert 0 < float(state) < tolerance("float32")

  ways = dict(
    re.findall(r"(\w+) .*worst error (\S+)", printed(notebook, "naive"))
  )
  assert float(ways["product"]) == float("inf")
  assert 5 * float(ways["summed"]) < float(ways["difference"])
  assert float(ways["summed"]) < tolerance("float32")
  text = printed(notebook, "naive")
  (finite,) = re.findall(r"product +finite tokens (\d+)", text)
  assert 30 < int(finite) < 89  # exp(88.8) overflows; -1 to -3 a token.
  gradients = re.findall(r"(\w+) +finite gradients (\d+)%", text)
  assert dict(gradients) == {
    "product": "0",
    "difference": "100",
    "summed": "100",
  }

  memory = {(op, form): list(map(int, x)) for op, form, x in rows("memory")}
  for op in {op for op, _ in memory}:
    longest = (memory[op, form][-1] for form in forms)
    recurrent, associative, chunked, _ = longest
    assert 4 * chunked < recurrent < associative

  for _, form, ratios in rows("time"):
    assert all(float(x) > 0 for x in ratios)
    assert form != "chunked" or set(ratios) == {"1.00"}
  found = re.findall(r"^  (\w+) .* (\S+) KiB", printed(notebook, "table"), re.M)
  assert [form for form, _ in found] == 2 * list(forms)
  a_token = [float(kib) for _, kib in found]
  for recurrent, chunked in zip(a_token[::4], a_token[2::4], strict=True):
    assert 32 < recurrent < 64  # Two heads' states of 16 KiB, and little more.
    assert 5 * chunked < recurrent


def check_three_claims(notebook):
  """Each claim compares two trained models."""
  for name in ("parity", "s3", "recall"):
    found = re.findall(r": accuracy (\d\.\d+)$", printed(notebook, name), re.M)
    assert len(found) == 2
    assert all(0 <= float(accuracy) <= 1 for accuracy in found)


def check_beyond_text(notebook):
  """Each section has a picture and, beside it, the metric of its task.

  The cells assert that this is the metric of the trainer.
  """
  pictures = {
    cell.id
    for cell in notebook.cells
    if any("image/png" in o.get("data", {}) for o in cell.get("outputs", ()))
  }
  expected = {"orders", "operator-picture", "process-picture"}
  sections = {
    "segments": "dice",
    "anomalies": "auroc",
    "points": "accuracy",
    "voices": "si_sdr_improvement",
    "forecast": "squared_error",
  }
  if "skipped" in printed(notebook, "forecast"):  # Without statsmodels.
    del sections["forecast"]
  for section, metric in sections.items():
    expected.add(f"{section}-picture")
    found = printed(notebook, f"{section}-picture")
    assert re.search(rf"^{metric} -?\d+\.\d+$", found, re.MULTILINE)
    losses = re.search(r"data (\S+), then (\S+)", printed(notebook, section))
    # A few steps lower it, or hardly change it.
    first, last = map(float, losses.groups())
    assert last < first + 0.05
  assert pictures == expected


CHECKS = {
  "beyond_text": check_beyond_text,
  "new_mixer": check_new_mixer,
  "scan_and_recurrence": check_scan_and_recurrence,
  "three_claims": check_three_claims,
}
