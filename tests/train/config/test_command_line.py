import dataclasses
import json
import os

import jax.numpy as jnp
import pytest

from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import GLA, MIXERS
from jaxmodels.models import LanguageModel
from tests.train import tiny
from train import __main__ as train_command
from train.command import main_with_errors
from train.config import Mesh, command_line, serialize
from train.config import schema as config_lib
from train.errors import UserError
from train.flags import fields
from train.plan import __main__ as plan_command


def override(*words):
  return command_line.override(tiny.get_config(), words)


def checked(config, devices=1):
  mesh = config_lib.validate(config, devices=devices)
  config_lib.check_data(config, mesh, 257, 12)


def test_overrides_reach_every_depth_and_keep_their_types():
  config = override(
    "--steps=7",
    "--optimizer.learning_rate=1",
    "--model.width=16",
    "--model.mixer_options.sum.num_heads=4",
    "--model.dtype=bfloat16",
    "--model.mixers=sum,sum,sum",
    "--optimizer.schedule.end_step=30",
    "--data.infinite=3",
    "--debug",
    "--sample.prompt=None",
  )
  assert config.steps == 7
  assert config.optimizer.learning_rate == 1.0
  assert isinstance(config.optimizer.learning_rate, float)
  assert config.model.width == 16
  assert config.model.mixer_options["sum"]["num_heads"] == 4
  assert config.model.mixer_options["sum"]["decay"] == 0.5
  assert config.model.dtype is jnp.bfloat16
  assert config.model.mixers == ("sum", "sum", "sum")
  assert config.optimizer.schedule.end_step == 30
  assert config.data.infinite == 3
  assert config.debug is True
  # A string is what it says; only an optional key can be None.
  assert config.sample.prompt == "None"


def stacked(**fields):
  mixers = (GLA(16, heads=2), ("gla", {"heads": 1}), "gla")
  model = LanguageModel(257, 16, 3, mixers, mlp=GatedMLP(16, 8))
  return dataclasses.replace(tiny.get_config(), model=model, **fields)


def test_overrides_reach_into_tuples_and_modules():
  config = command_line.override(
    stacked(),
    [
      "--model.mixers.0.heads=4",
      "--model.mixers.0.chunk_size=8",
      "--model.mixers.0.dtype=bfloat16",
      "--model.mixers.1.heads=2",
      "--model.mixers.1.gate_rank=3",
      "--model.mixers.2=kda",
      "--model.mlp.hidden=24",
      "--optimizer.decay_paths=*/kernel,*/memory",
    ],
  )
  first, second, third = config.model.mixers
  assert (first.heads, first.chunk_size, first.width) == (4, 8, 16)
  assert first.dtype is jnp.bfloat16
  assert second == ("gla", {"heads": 2, "gate_rank": 3})
  assert third == "kda"
  assert config.model.mlp.hidden == 24
  assert config.optimizer.decay_paths == ("*/kernel", "*/memory")
  # What no word names stays the same object.
  assert config.data is not None and config.mesh == Mesh()


def test_a_whole_tuple_may_be_replaced_and_then_changed():
  words = [
    "--model.mixers=('gla', ('kda', {'heads': 2}))",
    "--model.mixers.1.heads=4",
    "--model.mlp=mlp,none",
  ]
  model = command_line.override(stacked(), words).model
  assert model.mixers == ("gla", ("kda", {"heads": 4}))
  assert model.mlp == ("mlp", "none")
  words = ["--model.mixers=gla,kda", "--model.mlp=none"]
  model = command_line.override(stacked(), words).model
  assert (model.mixers, model.mlp) == (("gla", "kda"), "none")


@pytest.mark.parametrize(
  ("word", "parts"),
  [
    ("mixers.0.heds=4", ["mixers.0.heds;", "mean --model.mixers.0.heads"]),
    ("mixers.0.heads=a", ["--model.mixers.0.heads=a", "must be int"]),
    ("mixers.3.heads=4", ["mixers.3.heads;", "--model.mixers.0.heads"]),
    ("mixers.2.heds=4", ["mixers.2.heds;", "mean --model.mixers.2.heads"]),
    ("mixers.0.parent=4", ["unknown flag --model.mixers.0.parent"]),
    ("mixers.2.width=4", ["unknown flag --model.mixers.2.width"]),
    ("mixers=(1,)", ["a mixer is a module, a name or (name, options), got 1"]),
    ("mixers=", ["mixer ''"]),
  ],
)
def test_a_typo_in_a_tuple_names_its_neighbours(word, parts):
  with pytest.raises((UserError, ValueError)) as error:
    model = command_line.override(stacked(), [f"--model.{word}"]).model
    model.init_state(1)
  assert "\n" not in str(error.value)
  for part in parts:
    assert part in str(error.value)


@pytest.mark.parametrize(
  ("word", "part"),
  [
    ("mixers.0.dtype=int32", "config.model.mixers.0.dtype is"),
    ("mixers.1.heads=99999999999", "config.model.mixers.1.1.heads is 999"),
  ],
)
def test_values_in_tuples_are_checked(word, part):
  config = command_line.override(stacked(), [f"--model.{word}"])
  with pytest.raises(UserError) as error:
    checked(config)
  assert part in str(error.value)


def test_modules_survive_the_round_trip():
  config = stacked()
  document = json.loads(json.dumps(serialize.to_json(config)))
  again = serialize.from_json(document)
  assert again.model == config.model
  other = command_line.override(config, ["--model.mixers.0.heads=4"])
  assert serialize.difference(document, serialize.to_json(other)) == {
    "config.model.mixers.0.heads": (2, 4)
  }


def test_options_may_be_new_since_the_module_checks_them():
  config = override(
    "--model.mixer_options.sum.window=8",
    "--model.mixer_options.other.gate=True",
    "--model.mixer_options.other.shares=(0.5, 2)",
    "--model.mixer_options.other.kind=fast",
  )
  assert config.model.mixer_options == {
    "sum": {"decay": 0.5, "num_heads": 1, "window": 8},
    "other": {"gate": True, "shares": (0.5, 2), "kind": "fast"},
  }


def test_the_last_value_of_an_optional_key_counts():
  first = override("--optimizer.clip=none", "--optimizer.clip=3")
  assert first.optimizer.clip == 3.0
  then = override("--optimizer.clip=3", "--optimizer.clip=none")
  assert then.optimizer.clip is None


@pytest.mark.parametrize(
  ("word", "parts"),
  [
    ("--model.widht=2", ["--model.widht", "--model.width"]),
    ("--width=2", ["--width", "--model.width"]),
    ("--step=2", ["--step;", "--steps"]),
    (
      "--model.mixer_options.sum.num_heads.x=2",
      ["--model.mixer_options.sum.num_heads.x"],
    ),
    (
      "--model.mixer_option.sum.num_heads=2",
      ["--model.mixer-options.sum.num-heads"],
    ),
    ("--config.steps=2", ["--config.steps", "--steps"]),
    ("--config=a.py", ["--config", "--debug"]),
    ("--steps=abc", ["--steps=abc", "int"]),
    ("--steps=1.5", ["--steps=1.5", "int"]),
    ("--seed=None", ["--seed=None", "int"]),
    ("--debug=7", ["--debug=7", "bool"]),
    ("--model.dtype=float33", ["--model.dtype", "float33"]),
    ("--model.mixers=(1,2)", ["--model.mixers", "tuple of str"]),
    ("--steps", ["--steps", "needs a value"]),
    ("--optimizer=sgd", ["--optimizer", "flags of its own, --optimizer."]),
    ("stray", ["stray"]),
  ],
)
def test_mistakes_name_the_key_and_similar_keys_in_one_line(word, parts):
  with pytest.raises(UserError) as error:
    override(word)
  message = str(error.value)
  assert "\n" not in message
  for part in parts:
    assert part in message


def test_a_missing_config_file_lists_the_existing_ones(tmp_path):
  (tmp_path / "one.py").write_text("")
  (tmp_path / "_hidden.py").write_text("")
  with pytest.raises(UserError, match=r"one\.py") as error:
    command_line.parse([f"{tmp_path}/two.py"])
  assert "two.py" in str(error.value)
  assert "_hidden" not in str(error.value)


def test_config_file_must_return_a_config(tmp_path):
  path = tmp_path / "wrong_kind.py"
  path.write_text("def get_config():\n  return {}\n")
  with pytest.raises(UserError, match="must return a Config, not dict"):
    command_line.parse([f"{path}"])
  path = tmp_path / "wrong_name.py"
  path.write_text("def config():\n  return {}\n")
  with pytest.raises(UserError, match="no function get_config"):
    command_line.parse([f"{path}"])


def test_workdir_is_named_after_the_config():
  command = command_line.parse(["tests/train/tiny.py"])
  assert command.workdir == os.path.join("runs", "tiny")


def test_json_round_trip_keeps_everything():
  config = override("--model.dtype=bfloat16", "--optimizer.clip=none")
  document = json.loads(json.dumps(serialize.to_json(config)))
  again = serialize.from_json(document)
  assert again.model.dtype is jnp.bfloat16
  assert again.optimizer == config.optimizer
  assert again.data == config.data
  assert again.model.mixers == ("sum", "sum")
  assert serialize.difference(document, serialize.to_json(again)) == {}
  other = serialize.to_json(tiny.get_config())
  assert serialize.difference(other, document) == {
    "config.model.dtype.$dtype": ("float32", "bfloat16"),
    "config.optimizer.clip": (1.0, None),
  }


@pytest.mark.parametrize(
  ("word", "part"),
  [
    ("--steps=-1", "config.steps is -1"),
    ("--batch_size=0", "config.batch_size is 0"),
    ("--seed=-1", "config.seed is -1"),
    ("--accumulation=3", "divisible"),
    ("--strategy=pmpa", "one of jit, pmap"),
    ("--best_metric=perplexity", "one of loss"),
    ("--eval_batches=0", "config.eval_batches is 0"),
    ("--optimizer.schedule.floor=2", "optimizer.schedule.floor is 2.0"),
    ("--optimizer.schedule.end_step=3", "more than warmup_steps"),
    ("--sample.top_p=0", "config.sample.top_p is 0.0"),
    ("--model.vocab_size=256", "at least the 257 tokens"),
  ],
)
def test_invalid_values_are_named(word, part):
  with pytest.raises(UserError) as error:
    checked(override(word))
  assert part in str(error.value)


def with_mesh(**sizes):
  return dataclasses.replace(tiny.get_config(), mesh=Mesh(**sizes))


def test_a_batch_must_divide_among_devices():
  config_lib.validate(with_mesh(data=4), devices=4)
  with pytest.raises(UserError, match=r"a batch \(3\)"):
    config_lib.validate(with_mesh(data=3), devices=3)
  pmap = dataclasses.replace(tiny.get_config(), strategy="pmap")
  with pytest.raises(UserError, match=r"a batch \(3\)"):
    config_lib.validate(pmap, devices=3)


def test_a_mesh_takes_the_rest_of_the_devices():
  for sizes, expected in (
    ({}, Mesh()),
    ({"data": -1}, Mesh(8, 1, 1)),
    ({"data": 2, "fsdp": -1, "sequence": 2}, Mesh(2, 2, 2)),
    ({"fsdp": 2, "data": 2}, Mesh(2, 2, 1)),
  ):
    assert config_lib.layout(with_mesh(**sizes), 8) == expected


@pytest.mark.parametrize(
  ("sizes", "changes", "line"),
  [
    ({}, {}, "7 of 8 devices are idle: --mesh.data=-1 uses all of them"),
    ({"data": 2, "fsdp": 2}, {}, "4 of 8 devices are idle: --mesh.data"),
    ({}, {"batch_size": 4}, "all of them, with a config.batch_size that 8 div"),
    ({"data": -1}, {}, None),
    ({}, {"strategy": "pmap"}, None),
  ],
)
def test_idle_devices_are_reported_with_the_flag(sizes, changes, line):
  config = dataclasses.replace(with_mesh(**sizes), **changes)
  found = config_lib.idle_line(config, config_lib.layout(config, 8), 8)
  assert (line is None) == (found is None)
  assert line is None or line in found


@pytest.mark.parametrize(
  ("words", "part"),
  [
    ("--mesh.data=3", "config.mesh is data=3, fsdp=1, sequence=1"),
    ("--mesh.data=-1 --mesh.fsdp=5", "must divide the 8"),
    ("--mesh.data=0", "config.mesh.data is 0"),
    ("--mesh.fsdp=-2", "config.mesh.fsdp is -2"),
    (
      "--mesh.data=-1 --mesh.sequence=-1",
      "config.mesh.sequence is -1, but must be positive, since config.mesh.d",
    ),
    ("--strategy=pmap --mesh.fsdp=2", "a mesh needs"),
    ("--mesh.data=8 --accumulation=2", "config.batch_size is 8"),
    ("--mesh.sequence=8", "config.mesh.sequence is 8, but must be a d"),
    ("--mesh.fsdb=2", "did you mean --mesh.fsdp"),
  ],
)
def test_invalid_meshes_are_named(words, part):
  with pytest.raises(UserError) as error:
    checked(override(*words.split()), devices=8)
  assert part in str(error.value)
  assert "\n" not in str(error.value)


def test_words_after_a_flag_may_be_joined_to_it_or_not():
  for words in (
    ["--optimizer.learning-rate", "1e-3", "--mesh.data", "-1", "--debug"],
    ["--optimizer.learning_rate=1e-3", "--mesh.data=-1", "--debug=True"],
    ["--optimizer.learning_rate=1e-3", "--mesh.data=-1", "--debug", "true"],
  ):
    config = override(*words)
    assert config.optimizer.learning_rate == 1e-3
    assert (config.mesh.data, config.debug) == (-1, True)
  config = override("--debug", "--no-debug", "--steps", "1_000")
  assert (config.debug, config.steps) == (False, 1000)
  config = override("--optimizer.decay-paths", "*/kernel", "*/memory")
  assert config.optimizer.decay_paths == ("*/kernel", "*/memory")


def test_a_mixer_given_by_name_has_the_fields_of_its_class():
  model = dataclasses.replace(
    tiny.get_config(),
    model=LanguageModel(
      257, 16, 2, ("gla", "kda"), mixer_options={"gla": {"heads": 2}}
    ),
  )
  words = ["--model.mixers.0.gate-rank=3", "--model.mlp.hidden", "24"]
  changed = command_line.override(model, words).model
  assert changed.mixers == (("gla", {"gate_rank": 3}), "kda")
  assert changed.mlp == ("gated_mlp", {"hidden": 24})
  # Words that replace the tuple count first, wherever they stand.
  words = ["--model.mixers.1.heads", "4", "--model.mixers", "kda", "gla"]
  changed = command_line.override(model, words).model
  assert changed.mixers == ("kda", ("gla", {"heads": 4}))
  words = ["--model.mixers.1", "gla", "--model.mixers.1.heads", "1"]
  changed = command_line.override(model, words).model
  assert changed.mixers == ("gla", ("gla", {"heads": 1}))


def test_help_lists_every_field_with_its_text_and_value(capsys):
  words = ["configs/quickstart.py", "--model.width=64", "--help"]
  assert main_with_errors(train_command._run, words) == 0
  out = capsys.readouterr().out
  # No colours, no frames.
  assert out.isascii() and "\x1b" not in out and "|" not in out
  text = " ".join(out.split())
  for part in (
    "usage: python -m train configs/NAME.py",
    "--model.width INT D. (default: 128)",
    "--model.dtype DTYPE The dtype of the computation. (default: float32)",
    "--model.mixers.0.heads INT H, the heads of values and states.",
    "--model.mixers.1.gate-rank INT The rank of the decay's projection.",
    "--optimizer.clip FLOAT",
    "--data.length INT",
    "--sample.prompt STR The text to continue. (default: 'def ')",
    "--workdir STR",
    "--process-id INT",
    "--new-data BOOL",
  ):
    assert part in text, part


def test_help_needs_no_config(capsys):
  for command in (train_command, plan_command):
    assert main_with_errors(command._run, ["--help"]) == 0
    out = capsys.readouterr().out
    assert "configs/NAME.py" in out and "fields of the config" in out


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_the_fields_of_every_mixer_are_documented(name):
  model = LanguageModel(257, 16, 1, (name,))
  config = dataclasses.replace(tiny.get_config(), model=model)
  root = fields.Group("", config)
  inner = [f for f in root.all() if f.path.startswith("model.mixers.0.")]
  assert [f.path for f in inner if not f.doc] == []
  assert inner


def test_the_config_file_comes_first():
  for words in ([], ["--steps=3"], ["--workdir=x", "tests/train/tiny.py"]):
    with pytest.raises(UserError, match="config file must come first") as error:
      command_line.parse(words)
    assert "configs/quickstart.py" in str(error.value)
