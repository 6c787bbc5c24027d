"""Whole models in turn: what is measured, and where lines cross."""

import json

import jax
import numpy as np
import pytest

from benchmarks import lm, measure, model_runs, models
from benchmarks.contest import Limits
from benchmarks.lm import SOFTMAX, Shape
from benchmarks.model_runs import TrainingRun, crossing

TINY = Shape(width=8, heads=2, depth=1)


def runs(*speedups, mixer="gla"):
  lengths = (100, 200, 400)
  return [
    TrainingRun(mixer, length, 1, speedup=speedup)
    for length, speedup in zip(lengths, speedups, strict=False)
  ]


@pytest.mark.parametrize(
  ("speedups", "wanted"),
  [
    ((1.5, 2.0, 3.0), 100),
    ((0.2, 0.5, 0.8), None),
    ((0.5, 2.0, 3.0), np.sqrt(100 * 200)),
    ((0.4, 0.5, 1.0), 400),
    ((None, 0.5, 2.0), np.sqrt(200 * 400)),
    ((), None),
  ],
)
def test_where_a_mixer_overtakes_softmax(speedups, wanted):
  others = runs(9, 9, 9, mixer="s5")
  found = crossing(others + runs(*speedups), "gla")
  assert found == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.slow
def test_training_is_timed_against_softmax(monkeypatch):
  took = {"s5": np.array([2.0, 20.0]), SOFTMAX: np.array([6.0, 60.0])}
  monkeypatch.setattr(measure, "interleave", lambda *_: (took, {}))
  found = model_runs.train(["s5", SOFTMAX], 16, 32, TINY, Limits(), repeats=2)
  s5, softmax = found
  assert (s5.batch, s5.seconds, s5.tokens_per_second) == (2, 11, 32 / 11)
  assert (s5.speedup, softmax.speedup) == (3, 1)
  assert s5.bytes > 0 and s5.compile > 0


@pytest.mark.slow
def test_training_leaves_out_what_is_too_slow_or_too_large():
  before = [
    TrainingRun("gla", 8, 2, seconds=1.0),
    TrainingRun("gla", 16, 2, seconds=10.0),
    TrainingRun(SOFTMAX, 16, 2, skipped="of old"),
  ]
  small, soft, large = model_runs.train(
    ["gla", SOFTMAX, "s5"], 32, 32, TINY, Limits(1000, 50), 1, before
  )
  assert "100 s" in small.skipped and small.compile is None
  assert soft.skipped == "of old"
  assert "GiB" in large.skipped and large.tokens_per_second is None


def test_the_memory_of_a_linear_mixer_does_not_grow():
  sizes = {
    mixer: [
      lm.state_bytes(lm.model(mixer, TINY, context)) for context in (16, 64)
    ]
    for mixer in ("gla", SOFTMAX)
  }
  assert sizes["gla"][0] == sizes["gla"][1]
  # Keys and values of 8 channels, in float32.
  grown = sizes[SOFTMAX][1] - sizes[SOFTMAX][0]
  assert grown >= (64 - 16) * 2 * 8 * 4


def test_a_decoder_goes_on_from_its_state():
  """What it writes is what the model says of all that came before."""
  model = lm.model("gla", TINY, 32)
  params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))
  decoder = lm.Decoder(model, params["params"], tokens=2)
  decoder.prefill(5)
  first = np.asarray(decoder._token)
  last = np.asarray(decoder())
  prompt = np.random.default_rng(0).integers(257, size=(1, 5))
  written = np.concatenate([prompt, first], 1)
  apply = jax.jit(lambda tokens: model.apply(params, tokens)[0])
  for _ in range(2):
    token = np.argmax(np.asarray(apply(written))[:, -1:], -1)
    written = np.concatenate([written, token], 1)
  assert written[0, -1] == last[0, 0]


@pytest.mark.slow
def test_a_deep_model_compiles_both_ways():
  scanned, unrolled = model_runs.compile_time("s5", 2, TINY, 8)
  assert scanned.scan_layers and not unrolled.scan_layers
  assert scanned.seconds > 0 and unrolled.processor_seconds > 0


@pytest.mark.parametrize(("seconds", "missed"), [(14.0, False), (16.0, True)])
def test_the_target_is_for_scanned_layers(seconds, missed):
  run = model_runs.CompileRun("gla", 24, True, seconds, 99.0)
  assert models._missed(run) is missed
  unrolled = model_runs.CompileRun("gla", 24, False, seconds, 99.0)
  assert not models._missed(unrolled)


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(tmp_path, capsys):
  files = tmp_path / "numbers.json", tmp_path / "picture.svg"
  models.main(
    f"--parts training decoding --mixers s5 {SOFTMAX} --lengths 16 8"
    " --width 8 --depth 1 --repeats 1 --decoded 2"
    f" --json {files[0]} --plot {files[1]}".split()
  )
  printed = capsys.readouterr().out
  assert "training, length 16, batch 1" in printed
  assert "decoding after 8, 16 tokens" in printed
  written = json.loads(files[0].read_text())
  trained = {(run["mixer"], run["length"]) for run in written["training"]}
  assert trained == {(m, n) for m in ("s5", SOFTMAX) for n in (8, 16)}
  assert all(run["tokens_per_second"] > 0 for run in written["decoding"])
  assert "<svg" in files[1].read_text()


def test_lengths_must_share_the_tokens_of_a_step():
  with pytest.raises(SystemExit, match="multiple"):
    models.main(["--parts", "training", "--lengths", "8", "--tokens", "12"])
