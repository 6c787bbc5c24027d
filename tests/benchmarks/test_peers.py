"""The contest with others: right peers are timed, wrong ones are not."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax import lax

from benchmarks.peers import __main__ as peers
from benchmarks.peers import chips, contest, page
from benchmarks.peers.cases import CASES, Case
from benchmarks.peers.contest import OURS, Row
from jaxmodels.ops import reference


def draw(rng, batch, length):
  a, b = rng.uniform(-1, 1, (2, batch, length, 3))
  return {"a": a, "b": b}


def op(a, b, method="auto"):
  return reference.diagonal_recurrence(a, b)


def wrong(a, b):
  y, state = op(a, b)
  return y.at[0, -1, 0].multiply(1.001), state


def wrong_gradient(a, b):
  """Of the right value, blind to a."""
  return op(lax.stop_gradient(a), b)


def absent():
  raise ModuleNotFoundError("No module named 'nothing'")


def failing():
  raise RuntimeError("of its own\nand more")


def too_few(a, b):
  return op(a, b)[0]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
  """A contest of ours with peers of every kind."""
  others = {
    "right": lambda: op,
    "wrong": lambda: wrong,
    "wrong gradient": lambda: wrong_gradient,
    "too few": lambda: too_few,
    "absent": absent,
    "failing": failing,
  }
  folder = tmp_path_factory.mktemp("peers")
  out = folder / "peers.json"
  arguments = ["--length", "5", "9", "--rounds", "3", "--json", str(out)]
  arguments += ["--out", str(folder / "PEERS.md")]
  peers.main(arguments, {"a case": Case(op, draw, others)}, {})
  return json.loads(out.read_text())


def named(outcome, name):
  rows = [row for row in outcome if row["name"] == name]
  assert [row["length"] for row in rows] == [5, 9]
  return rows


TIMES = (
  *("forward", "forward_ratio", "forward_processor", "compile"),
  *("gradient", "gradient_ratio", "gradient_processor"),
)


@pytest.mark.parametrize("name", [OURS, "right"])
def test_the_right_are_timed(outcome, name):
  for row in named(outcome, name):
    assert all(row[key] > 0 for key in TIMES)
    assert row["temporary_bytes"] >= 0
    assert row["left_out"] is None
    assert row["no_gradient"] is None


def test_the_right_are_found_right(outcome):
  for row in named(outcome, "right"):
    assert row["output_difference"] < 2e-5
    assert row["gradient_difference"] < 2e-5


@pytest.mark.parametrize("name", [OURS, "right"])
def test_errors_are_those_of_float32(outcome, name):
  """Not 0, as they would be against float32 or against themselves."""
  for row in named(outcome, name):
    assert 1e-9 < row["output_error"] < 1e-6
    assert 1e-9 < row["gradient_error"] < 1e-6


def test_ratios_are_over_ours(outcome):
  for row in named(outcome, OURS):
    assert row["forward_ratio"] == row["gradient_ratio"] == 1
    assert row["gradient_processor"] == 1


def test_only_ours_has_limits(outcome):
  for row in outcome:
    limits = row["products"], row["arrays"]
    assert all(limits) if row["name"] == OURS else limits == (None, None)


@pytest.mark.parametrize(
  ("name", "reason"),
  [
    ("wrong", "MISMATCH: outputs differ by"),
    ("too few", "MISMATCH: outputs differ by inf"),
    ("absent", "not installed: No module named 'nothing'"),
    ("failing", "RuntimeError: of its own"),
  ],
)
def test_others_are_not_timed(outcome, name, reason):
  for row in named(outcome, name):
    assert row["left_out"].startswith(reason)
    assert all(row[key] is None for key in TIMES)


def test_a_wrong_gradient_is_not_timed(outcome):
  for row in named(outcome, "wrong gradient"):
    assert row["output_difference"] < 2e-5
    assert row["forward"] > 0
    assert row["no_gradient"].startswith("MISMATCH: gradients differ by")
    assert row["gradient"] is row["compile"] is None


def test_the_table_and_the_page_say_who_is_wrong(outcome):
  rows = [Row(**row) for row in outcome]
  for text in (page.table(rows), page.page(rows, "--length 5 9")):
    for row in outcome:
      assert row["left_out"] is None or row["left_out"] in text
    assert text.count("MISMATCH: gradients differ by") == 2


def test_what_is_there_is_not_run_again(outcome, tmp_path):
  have = tmp_path / "have.json"
  have.write_text(json.dumps(outcome))
  arguments = ["--length", "9", "--have", str(have)]
  rows = peers.main(arguments, {"a case": Case(failing, draw)}, {})
  wanted = [row for row in outcome if row["length"] == 9]
  assert [dataclasses.asdict(row) for row in rows] == wanted


def test_a_slow_peer_is_left_out():
  case = Case(op, draw, {"right": lambda: op})
  _, row = contest.measure("a case", case, 1, 5, rounds=1, limit=0.0)
  assert row.left_out.startswith("one call took")


OWN = Row(
  "a case", 1, 8, OURS, gradient=6.0, gradient_ratio=1.0, temporary_bytes=90,
  output_error=1e-6, gradient_error=1e-6, products=1.5, arrays=6.0,
)  # fmt: skip


def peer(ratio, size, **fields):
  processor = fields.pop("gradient_processor", ratio)
  return Row(
    "a case", 1, 8, "theirs", gradient_ratio=ratio, temporary_bytes=size,
    gradient_processor=processor, **fields,
  )  # fmt: skip


@pytest.mark.parametrize(
  ("ratio", "size", "expected"),
  [
    (3.1, 280, "met"),
    (2.9, 280, "missed: time"),
    (3.1, 200, "missed: memory"),
    (2.9, 200, "missed: time, memory"),
    (3.1, None, "met"),
  ],
)
def test_the_verdict(ratio, size, expected):
  text = page.page([OWN, peer(ratio, size)], "")
  assert f"| {expected} |" in text


def test_the_smaller_ratio_counts():
  row = peer(9.0, 280, gradient_processor=2.0)
  assert page.verdict(OWN, row) == "missed: time"
  assert page.fastest([peer(3.0, 1), row]) is row


def test_the_aim_is_against_the_fastest_whose_gradient_was_timed():
  slow, none = peer(4.0, 1000), dataclasses.replace(OWN, name="no gradient")
  none.gradient_ratio = None
  assert page.fastest([slow, none, peer(2.0, 1000)]).gradient_ratio == 2
  assert page.fastest([none]) is None


def test_room_is_the_aimed_time_over_the_larger_limit():
  """A third of 12 s is 4 s, as our products take at their rate: 6 s / 1.5."""
  line = next(
    line
    for line in page.page([OWN, peer(2.0, 1000)], "").splitlines()
    if line.startswith("| a case, 8")
  )
  assert line.endswith("| 1.5 | 6.0 | 1.0 |")


def test_the_page_says_where_ours_is_behind():
  behind = peer(
    0.5,
    45,
    forward_ratio=0.9,
    forward_processor=1.2,
    output_error=4e-7,
    gradient_error=2e-6,
  )
  text = page.page([OWN, behind], "")
  assert (
    "- a case: theirs, forward in 0.90 of our time, 1.20 of our processor "
    "time; gradient in 0.50 of our time, 0.50 of our processor time; output "
    "error 4e-07 against 1e-06; 0.50 of our memory." in text
  )
  assert "Nowhere." in page.page([OWN, peer(1.1, 90)], "")


def shapes(case, length, dtype):
  drawn = case.inputs(np.random.default_rng(0), 1, length)
  return {
    name: jax.ShapeDtypeStruct(x.shape, dtype) for name, x in drawn.items()
  }


@pytest.mark.parametrize("name", CASES)
def test_every_case_traces(name):
  """Ours, and the definition in float64: the same shapes, of that type."""
  case = CASES[name]

  def traced(op, dtype):
    inputs = shapes(case, 32, dtype)
    outputs = jax.eval_shape(lambda inputs: op(**inputs), inputs)
    leaves = jax.tree.leaves(outputs)
    assert all(x.dtype == dtype for x in leaves)
    return [x.shape for x in leaves]

  with jax.enable_x64(True):
    expected = traced(case.defined, np.float64)
  assert traced(case.op, np.float32) == expected
  assert case.jax_peers or case.torch_peers


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_case_is_right_without_any_peer(name):
  alone = CASES[name]._replace(jax_peers={}, torch_peers={})
  (row,) = contest.measure(name, alone, 1, 70, rounds=1, limit=1.0)
  assert row.forward > 0
  assert row.gradient > 0
  assert row.output_error < 2e-5
  assert row.gradient_error < 2e-5


def test_a_program_that_does_not_compile_for_a_chip_says_why():
  text = chips.line("KDA", 1, 128, "deltanet-tpu, kernel", failing)
  assert text == "| KDA | 1 | deltanet-tpu, kernel | RuntimeError: of its own |"


@pytest.mark.slow
@pytest.mark.tpu_aot
def test_our_memory_on_a_chip_is_counted(tmp_path):
  pytest.importorskip("libtpu")
  out = tmp_path / "TPU.md"
  arguments = ["--case", "KDA", "--batch", "1", "--length", "256"]
  chips.main([*arguments, "--programs", "jaxmodels", "--out", str(out)])
  row = out.read_text().splitlines()[-1].split("|")[1:-1]
  case, rows, who, temporary, results, seconds = (cell.strip() for cell in row)
  assert (case, rows, who) == ("KDA", "1", "jaxmodels")
  # q, k and v in bfloat16, decays per key and beta in float32.
  assert float(results) == round(256 * 8 * (128 * (3 * 2 + 4) + 4) / 2**20)
  assert float(temporary) >= 0
  assert float(seconds) > 0
