"""Model flops equal hand counts; utilization is their share of the peak."""

import dataclasses

import jax
import pytest
from flax import linen as nn
from jax.extend.core import Primitive

from jaxmodels.analysis import chips, flops
from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel, model_flops
from jaxmodels.models.model_flops import model_flops as count
from jaxmodels.testing.examples import MIXERS as EXAMPLES
from tests.train import tiny
from tests.train.tasks import TASKS, B, C, L, config_of
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
  return count(model, params, length).per_token


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
  each = count(config.model, params, config.data.length).per_token
  lines = [x for x in read_metrics(tmp_path) if x["split"] == "train"]
  assert lines
  for line in lines:
    expected = each * line["tokens_per_second"] / 1e9
    assert line["model_flops_utilization"] == pytest.approx(expected)


@pytest.mark.parametrize(
  "name", ["token", pytest.param("taught", marks=pytest.mark.slow)]
)
def test_a_run_of_any_loss_reports_its_utilization(name, chip, tmp_path):
  config = dataclasses.replace(config_of(*TASKS[name]), steps=2)
  result = run(config, str(tmp_path))
  inputs = config.data.open("train")[0]["inputs"]
  is_tokens = inputs.ndim == 1
  each = count(
    config.model,
    result.params,
    L,
    inputs=None if is_tokens else inputs[None],
    collections=result.collections,
  ).per_token
  # At least six flops for each weight of the last layer.
  assert each > 6 * 8 * (tiny.VOCAB if is_tokens else C)
  lines = [x for x in read_metrics(tmp_path) if x["split"] == "train"]
  assert [x["tokens"] for x in lines] == [B * L] * 2
  for line in lines:
    expected = each * line["tokens_per_second"] / 1e9
    assert line["model_flops_utilization"] == pytest.approx(expected)


def test_an_unknown_chip_gives_no_utilization(finished):
  workdir, _ = finished
  assert all("model_flops_utilization" not in x for x in read_metrics(workdir))


def test_a_model_that_cannot_be_traced_gives_the_reason(chip):
  lines = []
  share = model_flops.share_of_peak(tiny.Model(), {}, 8, 1, lines.append)
  assert share is None
  (line,) = lines
  assert line.startswith("model_flops_utilization is left out: ")


sort_of = Primitive("made_up")
sort_of.def_abstract_eval(lambda x: x)


class Pooled(nn.Module):
  """A classifier of whole sequences: it cannot decode."""

  unknown: bool = False

  @nn.compact
  def __call__(self, x):
    y = nn.Dense(4, use_bias=False)(x)
    return (sort_of.bind(y) if self.unknown else y).mean(1)


@pytest.mark.parametrize("unknown", [False, True])
def test_a_model_that_cannot_decode_counts_its_forward_pass(chip, unknown):
  model = Pooled(unknown)
  x = jax.ShapeDtypeStruct((1, 6, 3), "float32")
  params = jax.eval_shape(Pooled().init, jax.random.key(0), x)["params"]
  found = count(model, params, 6, inputs=x)
  assert found.per_token == PASSES * 2 * 3 * 4
  lines = []
  share = model_flops.share_of_peak(model, params, 6, 2, lines.append, inputs=x)
  assert share == pytest.approx(found.per_token / 2e9)
  if unknown:
    (line,) = lines
    assert line.count("made_up") == 1
  else:
    assert not lines


LAYERS = {
  name: MIXERS[record.mixer](16, **record.options)
  for name, record in EXAMPLES.items()
  if record.listed
}


def test_every_mixer_is_tested():
  assert set(map(type, LAYERS.values())) == set(MIXERS.values())


@pytest.mark.parametrize("name", LAYERS)
def test_every_mixer_has_a_count(name):
  model = LanguageModel(VOCAB, 16, 1, (LAYERS[name],), mlp="none")
  tokens = jax.ShapeDtypeStruct((1, 8), "int32")
  params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  found = count(model, params, LENGTH)
  assert found.per_token > PASSES * 2 * VOCAB * 16
  assert not found.unknown

  def loss(params, tokens):
    return model.apply({"params": params}, tokens)[0].sum()

  step = flops.count(jax.grad(loss), params, tokens)
  assert step.products > 0 and not step.unknown


def test_a_stack_that_runs_backwards_has_a_count():
  ahead = counted(("gla",))
  assert counted(("gla",), reverse=True) == pytest.approx(ahead, rel=0.5)
