"""Fields of the optimizers: their checks, choices, and saved form."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel
from tests.train import tiny
from train.config import (
  SGD,
  STATE_SPACE,
  Adafactor,
  AdamW,
  Constant,
  Group,
  Lion,
  Muon,
  ScheduleFreeAdamW,
  WarmupStableDecay,
  check_types,
  saved,
  serialize,
  validate,
)
from train.errors import UserError
from train.parameters import path_of

OPTIMIZERS = (AdamW, Lion, Adafactor, Muon, SGD, ScheduleFreeAdamW)
# Of each mixer of this library, what the group of the state space has.
STATE_SPACE_PARAMETERS = {
  "gated_deltanet": {"A_log", "dt_bias"},
  "gated_deltanet2": {"A_log", "dt_bias"},
  "log_linear": {"A_log", "dt_bias"},
  "mixture_of_memories": {"A_log", "dt_bias"},
  "mamba": {"A_log", "dt_bias"},
  "mamba3": {"dt_bias"},
  "kda": {"A_log", "dt_bias"},
  "mamba2": {"A_log", "dt_bias"},
  "linoss": {"A", "B", "step_logit"},
  "lru": {"B", "log_decay_rate", "log_frequency"},
  "lssl": {"A", "B", "log_step"},
  "s4": {"B", "frequency", "log_decay_rate", "log_step", "low_rank"},
  "s4d": {"frequency", "log_decay_rate", "log_step"},
  "s5": {"B", "frequency", "log_decay_rate", "log_step"},
  "selective_scan_2d": {"scans/A_log", "scans/dt_bias"},
}


def with_optimizer(optimizer):
  return dataclasses.replace(tiny.get_config(), optimizer=optimizer)


@dataclasses.dataclass(frozen=True)
class Yogi:
  """An optimizer of a user."""

  learning_rate: float = 0.01

  def transformation(self, steps):
    del steps
    return optax.yogi(self.learning_rate)


def shapes_of(model):
  tokens = jnp.zeros((1, 8), jnp.int32)
  variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
  leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
  return {path_of(keys): leaf.shape for keys, leaf in leaves}


# Scanned layers have the same parameters behind another name.
@pytest.mark.parametrize(
  ("name", "scan_layers"),
  [
    *((name, False) for name in MIXERS),
    *(
      pytest.param(name, True, marks=() if name == "s5" else pytest.mark.slow)
      for name in MIXERS
    ),
  ],
)
def test_the_state_space_group_has_exactly_these_parameters(name, scan_layers):
  small = {"head_width": 8}
  options = {"mamba2": small, "mamba3": small}
  options = {name: options[name]} if name in options else {}
  model = LanguageModel(
    11, 16, 2, (name,), options, mlp="mlp", scan_layers=scan_layers
  )
  found = {p for p, s in shapes_of(model).items() if STATE_SPACE.has(p, s)}
  layers = ["repeats/block_0"] if scan_layers else ["layer_0", "layer_1"]
  assert found == {
    f"backbone/{layer}/mixer/{parameter}"
    for layer in layers
    for parameter in STATE_SPACE_PARAMETERS.get(name, ())
  }


def test_only_matrices_of_the_decay_paths_decay():
  model = LanguageModel(11, 16, 2, ("gla", "s5"), mlp="mlp", scan_layers=True)
  shapes = shapes_of(model)
  found = {path for path, s in shapes.items() if AdamW().decays(path, s)}
  assert found == {path for path in shapes if path.endswith("kernel")}
  # The axis of layers does not make a matrix of a vector.
  assert not AdamW().decays("repeats/block_0/mixer/kernel", (4, 2))
  assert AdamW().decays("repeats/block_0/mixer/kernel", (4, 2, 2))
  assert not AdamW().decays("layer_0/mixer/kernel", (4,))
  assert AdamW(decay_paths=("*",)).decays("mixer/memory", (4, 2))


def test_the_first_group_that_matches_counts():
  first = Group(("*/B",), rate=0.5, decay=True)
  second = Group(("*/mixer/*",), min_rank=2, rate=2.0, decay=False)
  optimizer = AdamW(groups=(first, second))
  cases = {
    "mixer/B": (0.5, True),
    "mixer/kernel": (2.0, False),
    "head/kernel": (1.0, True),
  }
  for path, (factor, decays) in cases.items():
    assert optimizer._factor(path, (3, 3)) == factor
    assert optimizer.decays(path, (3, 3)) == decays
  assert optimizer._factor("mixer/kernel", (3,)) == 1.0
  # A group may leave the decay to the paths that decay.
  plain = AdamW(groups=(Group(("*",), rate=0.5),))
  assert plain.decays("a/kernel", (3, 3)) and not plain.decays("a/B", (3, 3))


def test_muon_takes_matrices_and_no_filters():
  muon, shapes = Muon(), {"layer_0/mixer/query/kernel": (4, 4)}
  shapes |= {"layer_0/mixer/key_convolution/kernel": (4, 4)}
  shapes |= {"embedding/table": (4, 4), "repeats/block_0/kernel": (2, 4)}
  found = [
    path for path, shape in shapes.items() if muon.is_matrix(path, shape)
  ]
  assert found == ["layer_0/mixer/query/kernel"]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_defaults_are_valid_and_have_help_for_every_field(kind):
  config = with_optimizer(kind())
  validate(config)
  documents = " ".join(c.__doc__ or "" for c in kind.__mro__[:-1])
  words = " ".join(documents.split())
  for field in dataclasses.fields(kind):
    assert f" {field.name}: " in words


@pytest.mark.parametrize(
  ("optimizer", "part"),
  [
    (AdamW(ema=1.0), "config.optimizer.ema is 1.0, but must be more than 0"),
    (AdamW(noise=-1.0), "optimizer.noise is -1.0"),
    (AdamW(noise_seed=-1), "optimizer.noise_seed is -1"),
    (AdamW(sam_radius=0.0), "optimizer.sam_radius is 0.0"),
    (AdamW(groups=(Group(()),)), "optimizer.groups.0.paths is ()"),
    (AdamW(groups=(Group("*/B"),)), "optimizer.groups.0.paths is '*/B'"),
    (AdamW(groups=(Group(("*",), rate=-1.0),)), "groups.0.rate is -1.0"),
    (AdamW(groups=(STATE_SPACE, 3)), "optimizer.groups is"),
    (AdamW(learning_rate=0.0), "optimizer.learning_rate is 0.0"),
    (Lion(b2=1.0), "optimizer.b2 is 1.0"),
    (SGD(momentum=1.5), "optimizer.momentum is 1.5"),
    (Adafactor(update_clip=0.0), "optimizer.update_clip is 0.0"),
    (Adafactor(min_factored=0), "optimizer.min_factored is 0"),
    (Muon(iterations=0), "optimizer.iterations is 0"),
    (ScheduleFreeAdamW(b1=0.0), "optimizer.b1 is 0.0"),
    (ScheduleFreeAdamW(ema=0.9), "ema is 0.9, but must be None: this"),
    (Yogi(learning_rate="fast"), "config.optimizer.learning_rate is 'fast'"),
    (optax.adam(1e-3), "but must be one of train.config, such as AdamW()"),
  ],
)
def test_values_that_cannot_be_are_named(optimizer, part):
  with pytest.raises(UserError) as error:
    validate(with_optimizer(optimizer))
  assert part in str(error.value)


@pytest.mark.parametrize(
  "optimizer",
  [
    AdamW(groups=(STATE_SPACE,), ema=0.99),
    Muon(schedule=WarmupStableDecay(shape="square_root")),
    ScheduleFreeAdamW(schedule=Constant()),
    Yogi(0.5),
  ],
)
def test_a_saved_config_names_the_optimizer_by_its_class(optimizer):
  config = with_optimizer(optimizer)
  check_types(config)
  document = json.loads(json.dumps(serialize.to_json(config)))
  module = type(optimizer).__module__
  name = f"{module}:{type(optimizer).__name__}"
  assert document["optimizer"]["$class"] == name
  assert saved.read_config(document) == config


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"$class": "optax:sgd"}, "--trust=optax"),
    ({"$class": "train.optimizer:Averaged"}, "which is no config"),
    ({"$class": "train.config.optimizers:Any"}, "not a class of that module"),
    ({"$class": "train.config.schema:Mesh"}, "the optimizer of the saved"),
    # As it was saved before there were several.
    ({"$class": "train.config.schema:Optimizer", "b1": 0.5}, "is not a class"),
    ({"$class": "train.config.optimizer_base:Optimizer"}, "abstract class"),
    ({"$class": "train.config.optimizers:AdamW", "b1": "0"}, "of a wrong type"),
  ],
)
def test_a_saved_config_with_another_optimizer_is_refused(change, part):
  document = serialize.to_json(tiny.get_config())
  document["optimizer"] = change
  with pytest.raises(UserError) as error:
    saved.read_config(document)
  assert part in str(error.value)
