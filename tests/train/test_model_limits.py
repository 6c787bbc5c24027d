"""A model that a run cannot train or sample gives one error line."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import LanguageModel
from tests.train import tiny
from train import __main__ as command
from train.config import Config, Mesh, Sample
from train.devices import memory
from train.errors import UserError
from train.generate import generate
from train.setup import make_learner, new_state

BOUND = "SoftmaxAttention: max_length is 6, but the sequence has"


def config_of(model, **fields):
  return Config(model=model, data=tiny.Data(), **fields)


def shapes_of(config, length=4):
  return new_state(config, make_learner(config), length)[1]


def attention(max_length=6, vocab_size=tiny.VOCAB):
  return LanguageModel(
    vocab_size,
    4,
    1,
    ("softmax_attention",),
    {"softmax_attention": {"heads": 2, "max_length": max_length}},
    mlp="none",
  )


def zeros(model):
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 1), np.int32)
  )
  return jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), shapes["params"])


def test_data_longer_than_the_context_of_attention_are_refused():
  config = config_of(attention())
  shapes_of(config, 6)
  match = f"config.model: {BOUND} 7 tokens: raise max_length"
  with pytest.raises(UserError, match=match):
    shapes_of(config, 7)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"width": 0}, "LanguageModel: width must be at least 1, got 0"),
    ({"width": -8}, "LanguageModel: width must be at least 1, got -8"),
    ({"vocab_size": 2**40}, "LanguageModel: vocab_size must be below 2.31"),
    ({"dtype": jnp.float64}, "LanguageModel: dtype is float64, which JAX"),
    ({"mlp_options": {"hidden": 0}, "mlp": "mlp"}, "MLP: hidden must be at"),
  ],
)
def test_wrong_fields_are_named(fields, match):
  with pytest.raises(UserError, match=f"config.model: {match}"):
    shapes_of(config_of(attention().clone(**fields)))


def test_a_model_larger_than_all_memory_is_refused():
  small = config_of(attention())
  example = {"inputs": np.zeros(12, np.int32)}
  memory.check(small, Mesh(), shapes_of(small), example)
  huge = config_of(attention(vocab_size=2**31 - 1).clone(width=2048))
  match = "parameters and optimizer need 48 TiB per device, which has"
  with pytest.raises(UserError, match=match):
    memory.check(huge, Mesh(), shapes_of(huge), example)


def test_generation_stays_within_the_context_or_says_so():
  model = attention()
  variables = {"params": zeros(model)}
  # The last token that is drawn is not read.
  assert len(list(generate(model, variables, [1, 2], length=5))) == 5
  match = f"cannot read 7 tokens.*{BOUND} 7 tokens: raise max_length"
  with pytest.raises(UserError, match=match):
    next(generate(model, variables, [1, 2], length=6))


def test_a_finished_run_gets_its_report_without_a_sample(
  monkeypatch, tmp_path, capsys
):
  reports = []
  monkeypatch.setattr(
    command, "write_report", lambda runs, path: reports.append(path)
  )
  model = attention()
  config = config_of(model, sample=Sample(prompt="ab", length=9))
  result = types.SimpleNamespace(
    metrics={"bits_per_token": 1.0, "accuracy": 0.5},
    baselines={},
    step=3,
    variables={"params": zeros(model)},
  )
  command._finish(config, str(tmp_path), result)
  said = capsys.readouterr().err
  assert "but not its sample: the model cannot read 11 tokens" in said
  assert reports == [str(tmp_path / "report.png")]
