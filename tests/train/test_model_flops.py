"""Model flops equal hand counts; utilization is their share of the peak."""

import jax
import pytest

from jaxmodels.analysis import chips
from jaxmodels.models import LanguageModel, model_flops
from jaxmodels.models.model_flops import model_flops as count
from tests.train import tiny
from train.loop import run
from train.metrics import read_metrics
from train.setup import make_learner
from train.state import init_state

VOCAB, WIDTH, LENGTH = 50, 32, 64
PASSES = 3


def counted(mixers, length=LENGTH, scan_layers=False, **options):
  model = LanguageModel(
    VOCAB,
    WIDTH,
    len(mixers),
    mixers,
    {mixers[0]: {"heads": 2, **options}},
    mlp="none",
    scan_layers=scan_layers,
  )
  tokens = jax.ShapeDtypeStruct((1, 8), "int32")
  params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  return count(model, params, length)


READ_OUT = 2 * VOCAB * WIDTH


@pytest.mark.parametrize(
  ("window", "length", "seen"), [(16, 64, 16), (64, 16, 16)]
)
@pytest.mark.parametrize(("kv_heads", "key_values"), [(2, 2), (1, 1)])
def test_attention_counts_as_in_palm(
  window, length, seen, kv_heads, key_values
):
  """12 H Q T per token for scores, whether or not keys are shared; else 6 N."""
  found = counted(
    ("sliding_attention",), length, window=window, kv_heads=kv_heads
  )
  weights = 2 * WIDTH * WIDTH + 2 * WIDTH * (WIDTH // 2) * key_values
  assert found == PASSES * (2 * weights + READ_OUT) + 12 * WIDTH * seen


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_linear_mixer_writes_and_reads_its_state(scan_layers):
  layers = 2
  found = counted(("gated_deltanet",) * layers, scan_layers=scan_layers)
  weights = 5 * WIDTH**2 + 2 * WIDTH * 2  # And beta and the decay, of 2 heads.
  state = 2 * (WIDTH // 2) ** 2
  least = PASSES * (layers * (2 * weights + 4 * state) + READ_OUT)
  # What a key recalls is a third product; the scores of a token with itself
  # are small beside them.
  assert least < found < 1.15 * least


@pytest.fixture
def chip(monkeypatch):
  """Gives the CPU a known peak."""
  kind = jax.devices()[0].device_kind
  monkeypatch.setitem(chips.CHIPS, kind, chips.Chip(1e9, 1e9))


def test_a_run_reports_its_utilization(chip, tmp_path):
  config = tiny.get_config()
  run(config, str(tmp_path))
  learner = make_learner(config)
  params = init_state(
    learner.model, learner.optimizer, 0, config.data.length
  ).params
  each = count(config.model, params, config.data.length)
  lines = [x for x in read_metrics(tmp_path) if x["split"] == "train"]
  assert lines
  for line in lines:
    expected = each * line["tokens_per_second"] / 1e9
    assert line["model_flops_utilization"] == pytest.approx(expected)


def test_an_unknown_chip_or_count_gives_no_utilization(finished, monkeypatch):
  workdir, _ = finished
  assert all("model_flops_utilization" not in x for x in read_metrics(workdir))
  kind = jax.devices()[0].device_kind
  monkeypatch.setitem(chips.CHIPS, kind, chips.Chip(1e9, 1e9))

  def unknown(*_):
    raise ValueError("a primitive that is not known")

  monkeypatch.setattr(model_flops, "model_flops", unknown)
  assert model_flops.share_of_peak(tiny.Model(), {}, 8, 1) is None
