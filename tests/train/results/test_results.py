import dataclasses
import json
import pathlib

import pytest

from tests.train.results import small
from train.command import main_with_errors
from train.errors import UserError
from train.results import (
  Claim,
  Column,
  Row,
  Table,
  cells,
  page,
  picture,
  record,
)
from train.results import __main__ as command
from train.results import table as tables
from train.sweep import pool

ROOT = pathlib.Path(__file__).parents[3]


def run(folder, *words):
  flags = [f"--workdir={folder / 'runs'}", f"--output={folder}"]
  argv = ["tests/train/results/small.py", *flags, *words]
  return main_with_errors(command.run, argv, needs_output=False)


@pytest.fixture
def quick(monkeypatch):
  """Runs write an accuracy without training."""
  monkeypatch.setattr(pool, "MODULE", "tests.train.programs.quick_replicas")


def starts(folder, cell):
  paths = (folder / "runs").glob(f"{cell}-*/starts")
  return sum(path.stat().st_size for path in paths)


def test_the_command_fills_the_table_and_continues_it(quick, tmp_path, capfd):
  assert run(tmp_path, "--processes=2") == 1
  assert "error: 1 of 4 cells failed, tiny/fails" in capfd.readouterr().err
  found = record.read(str(tmp_path / "results.json"))
  good = found["tiny", "good"]
  # The better of the two rates, and the mean over its two seeds.
  assert good["rate"] == 0.2
  assert good["seeds"] == [0.2, 0.3]
  assert good["rates"] == {"0.1": [0.1, 0.2], "0.2": [0.2, 0.3]}
  assert good["chance"] == 0.05
  assert good["claim"] == "good sums (A 2024); good wins (B 2024)"
  assert good["compile_seconds"] == 3
  assert good["tokens_per_second"] == 200
  assert good["state_bytes"] == 8 * 4
  assert good["command"] == (
    "python -m train tests/train/tiny.py --model.mixers=sum,sum --replicas=2"
    " --replica-mode=turn --replica-rates 0.1 0.2"
  )
  # A rate at which a seed diverges does not count.
  assert found["tiny", "diverges"]["rates"] == {"0.1": [0.1, 0.2]}
  flags = "--model.mixers=sum,sum --model.mixers.0.decay=0.25"
  assert flags in found["loss", "good"]["command"]
  assert ("tiny", "fails") not in found
  text = (tmp_path / "RESULTS.md").read_text()
  assert "| good | **0.250 (0.200 to 0.300)** | **1.000** |" in text
  assert "| diverges | 0.150 (0.100 to 0.200) |  |" in text
  assert "3 of 4 cells are done" in text
  assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
  # The same command tries again what has failed, and nothing else.
  assert run(tmp_path, "--mixers", "good", "fails") == 1
  counts = [
    starts(tmp_path, f"tiny/{x}") for x in ("good", "diverges", "fails")
  ]
  assert counts == [1, 1, 2]


@pytest.mark.slow
def test_the_file_alone_says_what_is_done(quick, tmp_path):
  assert run(tmp_path, "--mixers", "good", "--tasks", "tiny") == 0
  (tmp_path / "runs").rename(tmp_path / "lost")
  assert run(tmp_path, "--mixers", "good", "--tasks", "tiny") == 0
  assert starts(tmp_path, "tiny/good") == 0
  # Other flags are another cell.
  path = tmp_path / "results.json"
  (old,) = json.loads(path.read_text())
  path.write_text(json.dumps([{**old, "fingerprint": "other"}]))
  assert run(tmp_path, "--mixers", "good", "--tasks", "tiny") == 0
  assert starts(tmp_path, "tiny/good") == 1


def test_a_fingerprint_has_what_differs_from_the_defaults():
  table = small.get_table()
  first = {cell.name: cell.fingerprint for cell in cells.cells(table)}
  assert len(set(first.values())) == len(first)
  (cell,) = cells.chosen_cells(cells.cells(table), ["tiny"], ["good"])
  same = dataclasses.replace(cell.config, steps=cell.config.steps)
  other = dataclasses.replace(cell.config, steps=cell.config.steps + 1)
  width = cell.config.model.clone(width=9)
  wider = dataclasses.replace(cell.config, model=width)
  found = [
    dataclasses.replace(cell, config=config).fingerprint
    for config in (same, other, wider)
  ]
  assert found[0] == cell.fingerprint
  assert len(set(found)) == 3
  # The defaults of the model and of the optimizer are no part of it.
  document = json.dumps(cells._without_defaults(cell.config))
  assert "weight_decay" not in document
  assert "param_dtype" not in document


def means(**values):
  return {
    (task, mixer): {"seeds": [value], "chance": None}
    for task in ("tiny", "loss")
    for mixer, value in values.items()
  }


@pytest.mark.parametrize(
  ("column", "claim", "verdict"),
  [
    ("tiny", {"bound": 0.9}, "holds"),
    ("tiny", {"bound": 0.91}, "does not hold"),
    ("tiny", {"above": ("diverges",)}, "holds"),
    ("tiny", {"above": ("diverges",), "margin": 0.3}, "does not hold"),
    ("tiny", {"above": ("diverges",), "worst": 0.5}, "does not hold"),
    ("tiny", {"above": ("diverges",), "worst": 0.8}, "holds"),
    ("tiny", {"above": ("fails",)}, "not run"),
    ("loss", {"bound": 0.9}, "holds"),
    ("loss", {"bound": 0.8}, "does not hold"),
    ("loss", {"above": ("diverges",)}, "does not hold"),
  ],
)
def test_a_claim_is_judged_by_the_means(column, claim, verdict):
  found = means(good=0.9, diverges=0.7)
  one = Claim("it", "A", column, ("good",), **claim)
  assert page.judge(one, small.get_table(), found).text == verdict


def test_a_claim_that_fails_says_what_else_was_tried():
  claims = (
    Claim("it", "A", "tiny", ("good",), bound=0.2, tried="once"),
    Claim("that", "B", "tiny", ("good",), bound=0.95, tried="twice"),
  )
  table = dataclasses.replace(small.get_table(), claims=claims)
  text = page._claims(table, means(good=0.9))
  assert "**does not hold**; twice" in text
  assert "once" not in text


def test_the_best_seed_counts_where_a_column_says_so():
  (tiny, loss) = small.get_table().columns
  assert tiny.value([0.5, 0.75]) == 0.625
  best = dataclasses.replace(tiny, best_seed=True)
  assert best.value([0.5, 0.75]) == 0.75
  assert dataclasses.replace(loss, best_seed=True).value([0.5, 0.75]) == 0.5
  (cell,) = cells.chosen_cells(
    cells.cells(small.get_table()), ["tiny"], ["good"]
  )
  rates = {
    rate: [{"accuracy": x} for x in seeds]
    for rate, seeds in ((0.1, (0.6, 0.6)), (0.2, (0.0, 0.9)))
  }
  assert cells.best_rate(cell, rates) == 0.1
  cell = dataclasses.replace(cell, column=best)
  assert cells.best_rate(cell, rates) == 0.2


def test_a_wrong_table_ends_in_one_line():
  rows, column = (Row("gla"),), Column("mqar", "configs/mqar.py", "accuracy")
  wrong = {
    "two rows of the table are named 'gla'": Table((*rows, *rows), (column,)),
    "column 'x' names the row 'kda', but there are gla": Table(
      rows, (Column("x", "", "", without=("kda",)),)
    ),
    "the claim 'it' names the column 'x', but there are mqar": Table(
      rows, (column,), (Claim("it", "", "x", ("gla",)),)
    ),
  }
  for line, table in wrong.items():
    with pytest.raises(UserError, match=line):
      table.check()
  with pytest.raises(UserError, match="no file none"):
    tables.read("none.py")


@pytest.mark.parametrize("config", ["results", "recall_frontier"])
def test_the_page_is_that_of_its_records(config):
  table = tables.read(str(ROOT / "configs" / f"{config}.py"))
  folder = ROOT / table.output
  found = record.read(str(folder / "results.json"))
  assert found
  written = (folder / "RESULTS.md").read_text()
  assert written == page.markdown(table, found)
  # Each record is of a cell of the table as it is now.
  known = {cell.key: cell for cell in cells.cells(table)}
  for key, one in found.items():
    assert one["fingerprint"] == known[key].fingerprint
    assert one["command"] == known[key].command
    assert len(one["seeds"]) == known[key].seeds
    assert one["processor_minutes"] > 0


def test_the_picture_has_one_line_per_mixer_over_its_state():
  rows = (Row("wide", "gla", {"heads": 4}), Row("narrow", "gla"), Row("kda"))
  table = Table(rows, small.get_table().columns, over_state=True)
  found = {
    ("tiny", row.name): {"seeds": [value], "state_bytes": 1024 * (4 - value)}
    for value, row in enumerate(rows)
  }
  figure = picture._over_state(table, found, table.columns[0])
  lines = figure.axes[0].get_lines()
  assert [line.get_label() for line in lines] == ["gla", "kda"]
  assert lines[0].get_xydata().tolist() == [[3.0, 1.0], [4.0, 0.0]]


def test_a_name_with_a_comma_is_refused():
  """`--mixers` would take it for two names."""
  with pytest.raises(ValueError, match="no comma: 'gla, wide'"):
    Row("gla, wide", "gla")
