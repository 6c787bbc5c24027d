"""`python -m benchmarks.chip`, on the CPU."""

import json

from benchmarks import chip


def run(tmp_path, *flags):
  path = tmp_path / "chip.json"
  status = chip.main(["--json", str(path), "--dtypes", "float32", *flags])
  return status, json.loads(path.read_text())


def test_forms_are_tested_and_timed(tmp_path, capsys):
  flags = "--ops diagonal_recurrence causal_convolution --methods auto pallas"
  sizes = "--length 16 --heads 1 --width 4 --chunks 8 --repeats 1"
  status, content = run(tmp_path, *flags.split(), *sizes.split())
  assert status == 0
  assert content["platform"] == "cpu"
  errors = [row for row in content["errors"] if "refused" not in row]
  assert {row["op"] for row in errors} == {
    "diagonal_recurrence",
    "causal_convolution",
  }
  for row in errors:
    assert 0 < max(row["errors"].values()) < 2e-5
  refused = [row for row in content["errors"] if "refused" in row]
  assert {row["form"] for row in refused} == {"pallas"}
  timed = [row for row in content["speed"] if "ms" in row]
  assert {row["direction"] for row in timed} == {"forward", "gradient"}
  assert "pallas         float32  highest  refused" in capsys.readouterr().out


def test_a_wrong_form_is_named(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(chip, "relative_error", lambda got, wanted: 3e-5)
  flags = "--ops diagonal_recurrence --methods recurrent --parts errors"
  status, content = run(tmp_path, *flags.split())
  assert status == 1
  wrong = {row["precision"]: row["wrong"] for row in content["errors"]}
  assert wrong == {"default": False, "highest": True}
  assert capsys.readouterr().out.count("WRONG") == 1


def test_no_program_is_compiled_after_the_time(tmp_path):
  status, content = run(
    tmp_path, "--ops", "diagonal_recurrence", "--minutes", "0"
  )
  assert status == 0
  assert content["errors"] == content["speed"] == []
