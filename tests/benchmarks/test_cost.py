"""Counted flops against the docstrings, memory against the recurrence."""

import dataclasses
import functools
import json
import math
import re

import jax
import pytest

from benchmarks import cost, programs
from benchmarks.cases import CASES, Sizes
from jaxmodels import ops
from jaxmodels.analysis import chips, flops
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.testing.examples import OPS
from jaxmodels.testing.examples.flops import (
  dplr_in_chunks,
  kalman_filter,
  kalman_filter_in_parallel,
)

FORMULAS = {name: record.flops for name, record in OPS.items() if record.flops}
ON_TPU = {n: r.flops_on_tpu for n, r in OPS.items() if r.flops_on_tpu}
SIZES = Sizes(batch=1, length=256, heads=1, width=64)
FACTOR = 1.5
MATRIX = [name for name, case in CASES.items() if case.matrix_state]


def counted(name, chunk, sizes=SIZES):
  """Flops per token, chunked forward where there are chunks."""
  case = CASES[name]
  method = "chunked" if "chunked" in case.methods else "chunk_parallel"

  def op(**inputs):
    return case.op(**inputs, method=method, chunk_size=chunk)

  function = programs.forward(op)
  return flops.count(function, case.shapes(sizes)).total / sizes.tokens


def agree(stated, real):
  return stated / FACTOR < real < stated * FACTOR


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("chunk", [32, 64, 128])
def test_flops_are_those_of_the_docstring(name, chunk):
  assert agree(FORMULAS[name](SIZES, chunk), counted(name, chunk))


@pytest.mark.parametrize("chunk", [32, 128])
def test_flops_of_dplr_in_chunks(chunk):
  """Which wide keys on a CPU take."""
  sizes = dataclasses.replace(SIZES, width=128)
  real = counted("dplr_recurrence", chunk, sizes)
  assert agree(dplr_in_chunks(sizes, chunk), real)
  assert not agree(FORMULAS["dplr_recurrence"](sizes, chunk), real)


@pytest.mark.parametrize("name", ON_TPU)
@pytest.mark.parametrize("chunk", [32, 128])
def test_flops_of_the_ladders_of_a_tpu(name, chunk):
  with trace_for("tpu"):
    real = counted(name, chunk)
  assert agree(ON_TPU[name](SIZES, chunk), real)
  assert chunk < 128 or not agree(FORMULAS[name](SIZES, chunk), real)


@pytest.mark.parametrize(("N", "M"), [(2, 1), (4, 2), (8, 8), (16, 4)])
@pytest.mark.parametrize(
  ("op", "method", "stated"),
  [
    (ops.kalman_filter, "recurrent", kalman_filter),
    (ops.kalman_filter, "chunk_parallel", kalman_filter_in_parallel),
    (
      ops.kalman_smoother,
      "recurrent",
      lambda N, M: kalman_filter(N, M) + 26 * N**3,
    ),
    (
      ops.kalman_smoother,
      "chunk_parallel",
      lambda N, M: kalman_filter_in_parallel(N, M) + 32 * N**3,
    ),
  ],
)
def test_flops_of_the_kalman_scans(N, M, op, method, stated):
  length = 256
  shapes = [(length, M), (N, N), (N, N), (M, N), (M, M), (N,), (N, N)]
  model = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
  real = flops.count(functools.partial(op, method=method), *model).total
  assert agree(stated(N, M), real / length)


@pytest.mark.parametrize(("length", "taps"), [(256, 256), (1000, 64)])
def test_flops_of_the_long_convolution(length, taps):
  x, kernel = (jax.ShapeDtypeStruct((n, 8), "float32") for n in (length, taps))
  real = flops.count(ops.long_convolution, x, kernel).total / x.size
  assert agree(30 * math.log2(2 * length), real)


def test_a_wrong_formula_is_noticed():
  """Without the products with the state; for other chunks; for other work."""
  name = "linear_attention_no_decay"
  stated, real = FORMULAS[name](SIZES, 32), counted(name, 32)
  assert not agree(stated - 4 * SIZES.width**2, real)
  assert not agree(stated, counted(name, 128))
  assert not agree(FORMULAS["delta_rule"](SIZES, 32), real)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_is_stated(name):
  op = re.sub("_((no|key|value)_decay|bonus|gates)$", "", name)
  assert "Cost: " in getattr(ops, op).__doc__


def gradient_bytes(name, method, lengths, width):
  """Temporary memory of the gradient at some lengths."""
  case, sizes = CASES[name], dataclasses.replace(SIZES, width=width)
  found = []
  for length in lengths:
    shapes = case.shapes(dataclasses.replace(sizes, length=length))

    def op(**inputs):
      return case.op(**inputs, method=method)

    function, arguments = programs.directions(op, shapes)["gradient"]
    found.append(
      programs.build(programs.lower(function, *arguments)).temp_bytes
    )
  return found


@pytest.mark.parametrize(
  "name",
  [
    name
    if name in ("linear_attention", "delta_rule")
    else pytest.param(name, marks=pytest.mark.slow)
    for name in MATRIX
  ],
)
def test_the_gradient_of_chunks_keeps_little(name):
  """Linear in the length, at a fraction of one state per token.

  Of short sequences other arrays than those of the length are the largest.
  """
  short, longer, longest = gradient_bytes(
    name, "chunked", (4096, 8192, 16384), 64
  )
  slope = (longest - longer) / 8192
  assert (longer - short) / 4096 == pytest.approx(slope, rel=0.05)
  short, longer = gradient_bytes(name, "recurrent", (512, 1024), 64)
  assert slope < (longer - short) / 512 / 8


def test_a_row_has_slopes_and_flops():
  case, sizes = CASES["diagonal_recurrence"], Sizes(2, 0, 1, 8)
  row = cost.row(case, "gradient", "float32", "recurrent", sizes, (256, 512))
  memory = row.memory["cpu"]
  # The gradient keeps a state of 8 numbers per token, at the least.
  assert memory.per_token >= 4 * 8
  assert memory.bytes >= 2 * 512 * 4 * 8
  assert row.flops_per_token >= 3 * 2 * 8


def test_a_method_that_cannot_run_is_left_out_with_the_reason():
  row = cost.row(
    CASES["dense_recurrence"], "forward", "float32", "pallas", SIZES, (8, 16)
  )
  assert "pallas" in row.skipped and row.flops_per_token is None
  page = cost.page([row], SIZES, (8, 16), ["cpu"])
  assert f"- {row.skipped}" in page


def test_without_libtpu_only_the_cpu_is_compiled_for(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.setattr(chips, "is_there", lambda _: False)
  files = tmp_path / "COST.md", tmp_path / "cost.json"
  cost.main(
    "--ops causal_convolution --methods chunk_parallel --dtypes bfloat16"
    " --directions forward --lengths 32 16 --batch 1 --heads 1 --width 4"
    f" --out {files[0]} --json {files[1]}".split()
  )
  assert chips.MISSING in capsys.readouterr().err
  page = files[0].read_text()
  assert f"jax {jax.__version__}" in page and "lengths 16 and 32" in page
  assert "| causal_convolution | bfloat16 | chunk_parallel |" in page
  assert "TPU MiB" not in page and "Cut short" not in page
  (row,) = json.loads(files[1].read_text())["rows"]
  assert list(row["memory"]) == ["cpu"]


def test_rows_that_are_there_are_not_made_again(monkeypatch, tmp_path):
  """Two runs of an op each, joined: the page is that of one run."""
  ops, parts = ("causal_convolution", "diagonal_recurrence"), []
  common = (
    "--methods recurrent --dtypes float32 --directions forward"
    " --platforms cpu --lengths 8 16 --batch 1 --heads 1 --width 4"
  )
  for op in ops:
    parts.append(str(tmp_path / op))
    cost.main(f"--ops {op} {common} --json {parts[-1]}".split())
  whole = tmp_path / "whole.md", tmp_path / "joined.md"
  arguments = ["--ops", *ops, *common.split()]
  cost.main([*arguments, "--out", str(whole[0])])
  monkeypatch.setattr(cost, "row", None)
  cost.main([*arguments, "--have", *parts, "--out", str(whole[1])])
  one, other = (page.read_text().splitlines()[3:] for page in whole)
  assert one == other and len(one) > 5


@pytest.mark.slow
@pytest.mark.gpu_aot
@pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU)
def test_a_gpu_launches_as_often_as_it_walks_over_chunks():
  """A form with loops over chunks launches in proportion to the length."""
  sizes, launches = Sizes(2, 0, 4, 64), []
  for length in (2048, 4096, 6144):
    row = cost.row(
      CASES["linear_attention"],
      "gradient",
      "float32",
      "chunked",
      sizes,
      (length,),
      ["gpu"],
    )
    assert row.memory["gpu"].bytes > 0 and row.memory["gpu"].per_token is None
    launches.append(row.launches)
  page = cost.page([row], sizes, (length,), ["gpu"])
  assert "length" in page and page.splitlines()[-1].endswith(
    f"|  | {row.launches:,} |"
  )
  assert launches[1] - launches[0] == launches[2] - launches[1] > 100


@pytest.mark.slow
@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
def test_a_tpu_keeps_the_states_of_the_recurrence():
  """4 B L H K V bytes for the gradient token by token, and not in chunks."""
  sizes = Sizes(2, 0, 4, 64)
  per_token, cycles = {}, {}
  for method in ("recurrent", "chunked"):
    row = cost.row(
      CASES["linear_attention"],
      "gradient",
      "float32",
      method,
      sizes,
      (2048, 4096),
      ["tpu"],
    )
    per_token[method] = row.memory["tpu"].per_token
    cycles[method] = row.cycles_per_token
  state = 4 * 4 * 64 * 64
  assert state <= per_token["recurrent"] < 3 * state
  assert per_token["chunked"] < state / 8
  assert 0 < cycles["chunked"] < cycles["recurrent"] / 8


def test_a_page_that_was_cut_short_says_so(monkeypatch, tmp_path):
  real, rows = cost.row, []

  def row(*args):
    if rows:
      raise KeyboardInterrupt
    rows.append(real(*args))
    return rows[0]

  monkeypatch.setattr(cost, "row", row)
  page = tmp_path / "COST.md"
  with pytest.raises(KeyboardInterrupt):
    cost.main(
      "--ops causal_convolution --dtypes float32 --platforms cpu --lengths 8 16"
      f" --batch 1 --heads 1 --width 4 --out {page}".split()
    )
  assert "Cut short: 1 of 4 rows." in page.read_text()
