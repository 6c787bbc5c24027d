"""The timings: who takes part, what is left out, and verdicts that can fail."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measure, ops, plots, programs, targets
from benchmarks.cases import CASES, Sizes
from benchmarks.contest import Contest, Limits, Result

TINY = Sizes(batch=2, length=7, heads=2, width=8)
WITH_DEFINITION = [name for name, case in CASES.items() if case.definition]


@pytest.mark.parametrize("name", WITH_DEFINITION)
def test_a_plain_scan_computes_what_the_op_does(name):
  case = CASES[name]
  inputs = case.inputs(TINY)
  with jax.numpy_rank_promotion("allow"):
    got = jax.jit(case.definition)(**inputs)
  wanted = jax.jit(lambda **i: case.op(**i, method="recurrent"))(**inputs)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(
      np.asarray(a), np.asarray(b).reshape(a.shape), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_of_the_inputs(name):
  case = CASES[name]
  assert case.shapes(TINY) == jax.eval_shape(lambda: case.inputs(TINY))


def test_interleaving_takes_turns_and_leaves_out_what_is_slow(monkeypatch):
  called = []
  took = {"a": 1.0, "b": 3.0, "c": 9.0}

  def seconds(call):
    called.append(call)
    return took[call]

  monkeypatch.setattr(measure, "seconds", seconds)
  times, slow = measure.interleave(
    {name: name for name in took}, repeats=2, budget=60, limit=5
  )
  assert called[:3] == ["a", "b", "c"]
  rounds = called[3:5], called[5:]
  assert [sorted(names) for names in rounds] == [["a", "b"], ["a", "b"]]
  assert {n: list(t) for n, t in times.items()} == {"a": [1, 1], "b": [3, 3]}
  assert slow == {"c": 9}


def test_nobody_always_follows_the_same(monkeypatch):
  called = []
  monkeypatch.setattr(measure, "seconds", lambda call: called.append(call) or 1)
  measure.interleave({n: n for n in "abc"}, repeats=20, budget=60)
  rounds = {tuple(called[i : i + 3]) for i in range(3, 63, 3)}
  assert len(rounds) == 6  # Every order.


def test_the_ratio_pairs_rounds():
  # Noise that hits a round hits both: the ratio is still 2.
  noise = np.array([1.0, 10.0, 100.0])
  assert measure.ratio(2 * noise, noise) == 2


@pytest.fixture(scope="module")
def matmuls():
  return measure.matmuls()


def test_a_contest_measures_all_and_says_what_it_left_out(matmuls):
  contest = Contest(
    CASES["diagonal_recurrence"],
    "forward",
    methods=["auto", "chunked", "recurrent", "pallas"],
    baselines=["lax.scan"],
  )
  results = {r.name: r for r in contest.run(TINY, matmuls, 2, 1.0)}
  assert results["auto"].same_as == "recurrent"
  assert results["pallas"].median is None
  assert "pallas" in results["pallas"].skipped
  for name in ("auto", "chunked", "recurrent", "lax.scan"):
    result = results[name]
    assert 0 < result.minimum <= result.median
    assert result.per_token == result.median / TINY.tokens
    assert result.flops > 0 and result.limit > 0
  assert results["auto"].against["recurrent"] == 1
  assert set(results["chunked"].against) == {"recurrent", "lax.scan"}


def test_a_contest_leaves_out_what_breaks_a_limit(matmuls):
  contest = Contest(
    CASES["diagonal_recurrence"],
    "gradient",
    methods=["recurrent"],
    baselines=[],
    limits=Limits(bytes=20_000),
  )
  (first,) = contest.run(TINY, matmuls, 1, 1.0)
  assert first.median is not None and 0 < first.bytes < 20_000
  longer = dataclasses.replace(TINY, length=4096)
  (second,) = contest.run(longer, matmuls, 1, 1.0)
  assert second.median is None and second.compile is None
  assert "GiB" in second.skipped


def result(name, length=4096, direction="gradient", **more):
  values = {"median": 1.0, "compile": 1.0} | more
  return Result("delta_rule", direction, length, name, **values)


@pytest.mark.parametrize(
  ("against", "compile_", "passed"),
  [
    ({"chunked": 1.0, "lax.scan": 0.2}, 1.0, [True, None, True, True]),
    ({"chunked": 1.2, "lax.scan": 0.2}, 1.0, [False, None, True, True]),
    ({"chunked": 1.0, "lax.scan": 0.5}, 1.0, [True, None, False, True]),
    ({"chunked": 1.0, "lax.scan": 0.2}, 9.0, [True, None, True, False]),
  ],
)
def test_verdicts_on_a_gradient(against, compile_, passed):
  auto = result("auto", against=against, compile=compile_)
  found = targets.verdicts([auto, result("chunked")], targets.SIZES)
  assert [verdict.passed for verdict in found] == passed


@pytest.mark.parametrize(("takes", "passed"), [(0.9, True), (1.05, False)])
def test_a_forward_pass_is_held_against_the_recurrence(takes, passed):
  auto = result("auto", direction="forward", against={"recurrent": takes})
  found = targets.verdicts([auto], targets.SIZES)
  assert found[-1].passed is passed


def test_what_was_skipped_has_no_verdict():
  auto = result("auto", skipped="too slow")
  found = targets.verdicts([auto], targets.SIZES)
  assert [verdict.passed for verdict in found] == [None, None]


def test_the_command_prints_writes_and_draws(tmp_path, capsys):
  files = tmp_path / "numbers.json", tmp_path / "picture.svg"
  status = ops.main(
    "--ops causal_convolution --lengths 8 16 --batch 1 --heads 1 --width 4"
    f" --repeats 1 --baselines lax.scan --json {files[0]} --plot {files[1]}"
    .split()
  )  # fmt: skip
  printed = capsys.readouterr().out
  written = json.loads(files[0].read_text())
  points = {
    (r["direction"], r["length"], r["name"]) for r in written["results"]
  }
  names = ("auto", "recurrent", "chunk_parallel", "lax.scan")
  assert points == {
    (d, n, m) for d in ("forward", "gradient") for n in (8, 16) for m in names
  }
  missed = [t for t in written["targets"] if t["passed"] is False]
  assert status == int(bool(missed))
  assert "causal_convolution gradient, length 16" in printed
  assert "<svg" in files[1].read_text()
  joined = tmp_path / "joined.svg"
  plots.main([str(files[0]), f"--output={joined}"])
  assert "causal_convolution, gradient" in joined.read_text()


def test_the_loss_of_a_gradient_reaches_every_input():
  case = CASES["delta_rule"]
  inputs = case.inputs(TINY)
  both = programs.directions(lambda **i: case.op(**i, method="auto"), inputs)
  function, arguments = both["gradient"]
  value, gradients = jax.jit(function)(*arguments)
  assert jnp.isfinite(value)
  assert all(jnp.any(g != 0) for g in jax.tree.leaves(gradients))
