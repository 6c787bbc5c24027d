"""Runs that start from a folder in the Hugging Face layout, and go back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import train
from jaxmodels import interop
from jaxmodels.interop.config import Config as Keys
from jaxmodels.interop.families import FAMILIES
from tests.interop.test_families import drawn
from train import teacher as teachers
from train.command import main_with_errors
from train.config import (
  AdamW,
  Config,
  Constant,
  Mesh,
  Pretrained,
  Sample,
  validate,
)
from train.config.start import resolved
from train.data import Text
from train.errors import UserError
from train.export import _run as export
from train.losses import Distillation
from train.setup import share
from train.sweep import cells

KEYS = {
  "model_type": "lfm2",
  "block_auto_adjust_ff_dim": False,
  "bos_token_id": 3,
  "hidden_size": 8,
  "intermediate_size": 12,
  "layer_types": ["conv"],
  "num_hidden_layers": 1,
  "vocab_size": 257,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """A folder with a tiny LFM2 in bfloat16, and its variables."""
  folder = tmp_path_factory.mktemp("start")
  model = FAMILIES["lfm2"].read(Keys(KEYS)).copy(parent=None)
  narrow = jax.tree.map(lambda x: 0.1 * x.astype("bfloat16"), drawn(model))
  interop.save(folder, model.copy(param_dtype=jnp.bfloat16), narrow)
  return str(folder), narrow


def config(folder, text, **changes):
  (text / "text").mkdir(exist_ok=True)
  for number in range(4):
    path = text / "text" / f"{number}.txt"
    path.write_text(f"{number} is a number. " * 9)
  fields = {
    "model": Pretrained(lora_rank=3),
    "data": Text(length=16, path=str(text / "text"), held_out=0.3),
    "optimizer": AdamW(learning_rate=0.01, warmup_steps=1, weight_decay=0.0),
    "steps": 2,
    "batch_size": 2,
    "eval_batches": 1,
    "start": folder,
    "sample": Sample(length=0),
  }
  return Config(**{**fields, **changes})


def test_low_rank_changes_are_trained_and_saved_back(start, tmp_path):
  folder, began = start
  run = train.run(config(folder, tmp_path), tmp_path / "run")
  frozen = flatten_dict(run.variables["frozen"]["base"], sep="/")
  for path, value in flatten_dict(began, sep="/").items():
    np.testing.assert_array_equal(frozen[path], value.astype(np.float32))
  b = flatten_dict(run.variables["params"]["lora_b"], sep="/")
  assert all(np.abs(value).max() > 0 for value in b.values())
  to = str(tmp_path / "to")
  assert export([str(tmp_path / "run"), "--to", to, "--dtype=float32"]) == 0
  model, saved = interop.load(to)
  a = flatten_dict(run.variables["params"]["lora_a"], sep="/")
  for path, value in flatten_dict(saved["params"], sep="/").items():
    wanted = np.float64(frozen[f"params/{path}"])
    if path in a:
      wanted = wanted + 16 / 3 * np.float64(a[path]) @ np.float64(b[path])
    np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)
  tokens = np.arange(12).reshape(2, 6)
  np.testing.assert_allclose(
    jax.jit(model.apply)(saved, tokens)[0],
    jax.jit(run.model.apply)(run.variables, tokens)[0],
    rtol=1e-5, atol=1e-5,
  )  # fmt: skip
  # Without a dtype, the tensors have those of the folder.
  export([str(tmp_path / "run"), "--to", str(tmp_path / "narrow")])
  _, narrow = interop.load(tmp_path / "narrow")
  narrow = flatten_dict(narrow["params"], sep="/")
  for path, value in flatten_dict(began["params"], sep="/").items():
    assert narrow[path].dtype == jnp.bfloat16
    if path not in a:
      np.testing.assert_array_equal(narrow[path], value)


def test_all_parameters_start_from_the_folder(start, tmp_path):
  """The average of an optimizer starts from them too."""
  optimizer = AdamW(ema=0.9)
  given = config(start[0], tmp_path, model=Pretrained(), optimizer=optimizer)
  found = resolved(given)
  state = share(found, validate(found), {}).draw(np.uint32(0))
  for tree in (state.params, state.opt_state.average):
    for path, value in flatten_dict(start[1]["params"], sep="/").items():
      other = flatten_dict(tree, sep="/")[path]
      np.testing.assert_array_equal(other, value.astype(np.float32))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"start": None}, "config.start is None, but config.model is Pretrained"),
    ({"start": "nothing"}, "config.start: nothing is no folder"),
    ({"model": Pretrained(remat="al")}, "config.model: unknown remat .al."),
  ],
)
def test_a_wrong_start_is_one_line(start, tmp_path, change, message):
  with pytest.raises(UserError, match=message):
    found = resolved(config(start[0], tmp_path, **change))
    share(found, validate(found), {})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"vocab_size": 300}, r"has the shape \(257, 8\), but config.model needs"),
    ({"depth": 2}, "has no params/backbone/layer_1/mixer/"),
    ({"mlp": "none"}, "has params/backbone/layer_0/mlp/.*does not have"),
  ],
)
def test_variables_of_another_model_are_refused(
  start, tmp_path, changes, message
):
  model = interop.read_model(start[0]).copy(**changes)
  found = config(start[0], tmp_path, model=model)
  with pytest.raises(UserError, match=message):
    share(found, validate(found), {}).draw(np.uint32(0))


@pytest.mark.slow
@pytest.mark.parametrize(
  "mesh", [Mesh(fsdp=2), Mesh(sequence=2), Mesh(data=2)], ids=str
)
@pytest.mark.parametrize(
  "model",
  [Pretrained(), Pretrained(3), Pretrained(3, scan_layers=True)],
  ids=("all", "LoRA", "scanned LoRA"),
)
def test_meshes_train_the_same(start, tmp_path, mesh, model):
  results = [
    train.run(
      config(start[0], tmp_path, model=model, mesh=m),
      tmp_path / str(i),
    )
    for i, m in enumerate((Mesh(), mesh))
  ]
  one, many = (dict(r.variables) for r in results)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    one, many,
  )  # fmt: skip


@pytest.mark.slow
def test_a_run_resumes_and_generates(start, tmp_path, capsys):
  from train.generate import _run as generate

  optimizer = AdamW(warmup_steps=1, schedule=Constant())
  given = config(start[0], tmp_path, steps=4, optimizer=optimizer)
  whole = train.run(given, tmp_path / "whole")
  train.run(dataclasses.replace(given, steps=2), tmp_path / "cut")
  resumed = train.run(given, tmp_path / "cut")
  jax.tree.map(np.testing.assert_array_equal, whole.state, resumed.state)
  words = ["--prompt=ab", "--length=4", "--temperature=0"]
  texts = []
  export([str(tmp_path / "whole"), "--to", str(tmp_path / "to")])
  for folder in ("whole", "to"):
    capsys.readouterr()
    assert generate([f"--workdir={tmp_path / folder}", *words]) == 0
    texts.append(capsys.readouterr().out)
  assert texts[0] and texts[0] == texts[1]


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ([], "--to is missing"),
    (["--to={start}"], "is not empty: give another folder"),
    (["--to={new}", "--dtype=int8"], "--dtype is int8, but must be one of"),
    (["--to={new}", "--step=3"], "which has no step 3"),
    (["--to={new}", "--family=lfm3"], "unknown family 'lfm3'"),
    (["--to={new}", "--like={new}"], "is no folder"),
  ],
)
def test_a_wrong_export_is_one_line(start, tmp_path, words, message, capsys):
  places = {"start": start[0], "new": tmp_path / "new"}
  words = [start[0], *(word.format(**places) for word in words)]
  assert main_with_errors(export, words, needs_output=False) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "new").exists()


def test_a_published_checkpoint_is_read_like_a_run(start, tmp_path):
  found = train.load(start[0])
  assert found.step == 0 and found.config.data == Text()
  teacher = teachers.load(Distillation(teacher=start[0]))
  assert (
    teacher.model
    == found.model
    == interop.read_model(start[0]).copy(
      dtype=jnp.float32, param_dtype=jnp.bfloat16
    )
  )
  # Tokens of another vocabulary than that of bytes are numbers.
  model = interop.read_model(start[0]).copy(vocab_size=50)
  interop.save(tmp_path, model, drawn(model))
  numbers = train.load(tmp_path).config.data.codec()
  assert numbers.encode(b"3 49") == [3, 49]


def test_a_sweep_varies_what_is_read_from_the_folder(start, tmp_path):
  given = config(start[0], tmp_path)
  axes, _ = cells.split(["--over.model.lora-rank", "1", "2"])
  runs = cells.runs(given, cells.grid(axes, []), 1)
  assert [run.config.model.rank for run in runs] == [1, 2]
