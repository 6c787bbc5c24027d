"""The contest with others: right peers are timed, wrong ones are not."""

import json

import pytest
from jax import lax

from benchmarks import peers
from benchmarks.peers_cases import CASES, Case
from jaxmodels.ops import reference


def draw(rng, batch, length):
  a, b = rng.uniform(-1, 1, (2, batch, length, 3))
  return {"a": a, "b": b}


def op(a, b):
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
  out = tmp_path_factory.mktemp("peers") / "peers.json"
  arguments = ["--length", "5", "9", "--rounds", "3", "--out", str(out)]
  peers.main(arguments, {"a case": Case(op, draw, others, {})})
  return json.loads(out.read_text())


def named(outcome, name):
  rows = [row for row in outcome if row["name"] == name]
  assert [row["length"] for row in rows] == [5, 9]
  return rows


TIMES = "forward", "forward_ratio", "gradient", "gradient_ratio", "compile"


@pytest.mark.parametrize("name", [peers.OURS, "right"])
def test_the_right_are_timed(outcome, name):
  for row in named(outcome, name):
    assert all(row[key] > 0 for key in TIMES)
    assert row["temporary_bytes"] >= 0
    assert row["left_out"] is None
    assert row["no_gradient"] is None


def test_the_right_are_found_right(outcome):
  for row in named(outcome, "right"):
    assert row["output_error"] < 2e-5
    assert row["gradient_error"] < 2e-5


def test_ratios_are_over_ours(outcome):
  for row in named(outcome, peers.OURS):
    assert row["forward_ratio"] == row["gradient_ratio"] == 1


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
    assert row["output_error"] < 2e-5
    assert row["forward"] > 0
    assert row["no_gradient"].startswith("MISMATCH: gradients differ by")
    assert row["gradient"] is row["compile"] is None


def test_the_table_says_who_is_wrong(outcome):
  text = peers.table([peers.Row(**row) for row in outcome])
  for row in outcome:
    assert row["left_out"] is None or row["left_out"] in text
  assert text.count("MISMATCH: gradients differ by") == 2


def test_a_slow_peer_is_left_out():
  case = Case(op, draw, {"right": lambda: op}, {})
  _, row = peers.measure("a case", case, 1, 5, rounds=1, limit=0.0)
  assert row.left_out.startswith("one call took")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in CASES else pytest.mark.slow)
    for name in peers.CASES
  ],
)
def test_cases_run_without_any_peer(name):
  alone = peers.CASES[name]._replace(jax_peers={}, torch_peers={})
  (row,) = peers.measure(name, alone, 1, 3, rounds=1, limit=1.0)
  assert row.forward > 0
  assert row.gradient > 0
