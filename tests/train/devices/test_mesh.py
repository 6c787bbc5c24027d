"""Shardings of a state, models on a mesh, and resuming on other meshes."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxmodels.analysis import chips
from jaxmodels.models import LanguageModel
from jaxmodels.ops.engine.platform import trace_for
from tests.train import tiny
from train import checkpoint
from train.config import Cosine, Mesh
from train.data import Batches
from train.devices.mesh import check_pieces, make_mesh, partition, shardings
from train.devices.strategy import make_strategy
from train.errors import CheckError, UserError
from train.loop import run
from train.metrics import read_metrics
from train.setup import make_learner
from train.state import init_state


def small(mixers=("mamba2", "sliding_attention"), **fields):
  options = {
    "mamba2": {"head_width": 8, "state_width": 4},
    "gated_deltanet": {"heads": 2},
    "sliding_attention": {"heads": 2, "window": 5},
  }
  return LanguageModel(
    tiny.VOCAB, 16, len(mixers), mixers, options, mlp="mlp", **fields
  )


def configured(**changes):
  config = tiny.get_config()
  data = tiny.Data(length=16, document=7)
  return dataclasses.replace(
    config, **{"model": small(), "data": data, "steps": 2, **changes}
  )


@pytest.mark.parametrize(
  "scan_layers", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_large_parameters_and_their_moments_are_sharded_alike(scan_layers):
  model = small(("gated_deltanet", "mamba2"), scan_layers=scan_layers)
  learner = make_learner(configured(model=model))
  state = init_state(learner.model, learner.optimizer, 0, 16)
  mesh = make_mesh(Mesh(data=2, fsdp=4))
  placed = shardings(mesh, state)
  specs = jax.tree.map(lambda s: s.spec, placed.params)
  layers = specs["backbone"]
  if scan_layers:
    delta, mamba = (layers["repeats"][f"block_{i}"]["mixer"] for i in (0, 1))
    lead = (None,)
  else:
    delta, mamba = (layers[f"layer_{i}"]["mixer"] for i in (0, 1))
    lead = ()
  assert delta["query"]["kernel"] == PartitionSpec(*lead, "fsdp", None)
  convolution = mamba["convolution"]["kernel"]
  assert convolution == PartitionSpec(*lead, None, "fsdp")
  assert delta["A_log"] == PartitionSpec()
  # 258 x 16: the devices divide the channels alone.
  assert specs["embedding"]["table"] == PartitionSpec(None, "fsdp")
  assert moments_of(placed) == [(placed.params, placed.params)]

  state = make_strategy("jit", learner, mesh=Mesh(2, 4)).prepare(state)
  for tree in (state.params, moments_of(state)):
    # All but vectors: of biases, norms, decays.
    large = [x for x in jax.tree.leaves(tree) if x.size > 64]
    assert len(large) >= 14
    for leaf in large:
      assert leaf.addressable_shards[0].data.size == leaf.size // 4


def moments_of(state):
  leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu"))
  return [(x.mu, x.nu) for x in leaves if hasattr(x, "mu")]


def test_a_dimension_that_does_not_divide_is_replicated():
  learner = make_learner(configured())
  state = init_state(learner.model, learner.optimizer, 0, 16)
  mesh = jax.make_mesh((1, 7, 1), ("data", "fsdp", "sequence"))
  for leaf in jax.tree.leaves(shardings(mesh, state.params)):
    assert "fsdp" not in leaf.spec


@pytest.mark.slow
def test_a_step_keeps_the_sharding_of_the_state():
  config = configured(mesh=Mesh(data=2, fsdp=2, sequence=2))
  learner = make_learner(config)
  strategy = make_strategy("jit", learner, mesh=config.mesh)
  state = strategy.prepare(init_state(learner.model, learner.optimizer, 0, 16))
  before = jax.tree.map(lambda x: x.sharding, state)
  rows = config.data.open("train")
  batch = {k: np.stack([rows[i][k] for i in range(8)]) for k in rows[0]}
  after, metrics = strategy.step(state, strategy.batch(batch))
  for old, new in zip(
    jax.tree.leaves(before), jax.tree.leaves(after), strict=True
  ):
    assert old.is_equivalent_to(new.sharding, new.ndim)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert metrics["loss"].is_fully_replicated


@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
@pytest.mark.parametrize("name", ["v5e:4x4", "v5p:2x2x4", "v6e:4x4"])
def test_every_slice_is_laid_out_along_three_axes(name):
  devices = chips.slice_devices(name)
  mesh = make_mesh(Mesh(data=2, fsdp=4, sequence=2), devices)
  assert mesh.devices.shape == (2, 4, 2)
  assert set(mesh.devices.flat) == set(devices)


@pytest.mark.slow
def test_a_run_resumes_on_another_mesh(tmp_path):
  meshes = (Mesh(fsdp=4, sequence=2), Mesh(), Mesh(data=2))
  moved, stayed = str(tmp_path / "moved"), str(tmp_path / "stayed")
  free = dataclasses.replace(
    tiny.get_config().optimizer, schedule=Cosine(end_step=20)
  )
  for steps, mesh in zip((2, 4, 6), meshes, strict=True):
    config = configured(steps=steps, mesh=mesh, optimizer=free)
    run(config, moved)
  run(configured(steps=6, optimizer=free), stayed)
  curves = [
    {
      (m["split"], m["step"]): m["loss"]
      for m in read_metrics(workdir)
      if m["split"] == "train"
    }
    for workdir in (moved, stayed)
  ]
  assert len(curves[0]) == 6 and curves[0].keys() == curves[1].keys()
  for key, loss in curves[0].items():
    np.testing.assert_allclose(loss, curves[1][key], rtol=1e-5)
  found = checkpoint.load(moved, "latest", print)
  assert found.step == 6 and found.config["mesh"]["data"] == 2


def test_a_model_without_sharded_sequences_is_refused(tmp_path):
  config = configured(model=tiny.Model(), mesh=Mesh(sequence=2))
  with pytest.raises(UserError, match=r"config\.mesh\.sequence must be 1"):
    run(config, str(tmp_path))


def test_a_shard_shorter_than_a_convolution_is_refused(tmp_path):
  config = configured(mesh=Mesh(sequence=8))
  with pytest.raises(UserError) as error:
    run(config, str(tmp_path))
  message = str(error.value)
  assert message.startswith(
    "config.mesh.sequence is 8, which the model does not support"
  )
  assert "W - 1 = 3 tokens" in message and "lower it" in message
  assert "\n" not in message


@pytest.mark.slow
def test_a_window_longer_than_a_shard_is_no_error():
  model = small(("sliding_attention",))
  params = model.init(jax.random.key(0), np.zeros((1, 16), np.int32))["params"]
  check_pieces(Mesh(sequence=8), model, {"params": params}, 16)


@pytest.mark.parametrize(
  "sizes", [pytest.param((2, 4, 1), marks=pytest.mark.slow), (2, 2, 2)]
)
def test_parameters_and_segments_are_gathered_but_no_tokens(sizes):
  config = configured(data=tiny.Data(length=24))
  assert_no_tokens_are_gathered(compiled_step(config, Mesh(*sizes)))


@pytest.mark.slow
def test_the_accelerator_method_gathers_no_tokens():
  options = {"head_width": 8, "state_width": 4, "chunk_size": 4}
  model = small(("mamba2",)).clone(mixer_options={"mamba2": options})
  config = configured(model=model, data=tiny.Data(length=24))
  with trace_for("tpu"):
    assert_no_tokens_are_gathered(compiled_step(config, Mesh(2, 4)))


@pytest.mark.slow
def test_features_stay_with_their_examples():
  # Left to itself, the compiler cuts the features of this model, because few
  # tokens are cheaper to move than kernels.
  mixer = {"head_width": 16, "state_width": 8}
  model = LanguageModel(
    tiny.VOCAB, 64, 2, ("mamba2",), {"mamba2": mixer}, scan_layers=True
  )
  config = configured(model=model, data=tiny.Data(length=24))
  assert "all-to-all" not in compiled_step(config, Mesh(1, 8)).as_text()


def assert_no_tokens_are_gathered(compiled):
  text = compiled.as_text()
  found = re.findall(r" (\w+)\[([\d,]+)\]\S* all-gather(?:-start)?\(", text)
  shapes = {tuple(map(int, shape.split(","))) for _, shape in found}
  assert (16, 64) in shapes, "the input of the channel mixer, D x 4 D"
  # Neither the batch of 8, nor sequences, nor pieces of them.
  for shape in shapes:
    assert not {8, 24, 12} & set(shape), shape


def compiled_step(config, mesh):
  learner = make_learner(config)
  strategy = make_strategy("jit", learner, mesh=mesh)
  state = init_state(learner.model, learner.optimizer, 0, config.data.length)
  batch = next(Batches(config.data.open("train"), config.batch_size, seed=0))
  step = strategy.step.lower(strategy.prepare(state), strategy.batch(batch))
  return step.compile()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 2, 1), (1, 2, 2)])
def test_debug_names_what_is_wrong_on_a_mesh_too(sizes):
  config = configured()
  learner = make_learner(config)
  strategy = make_strategy("jit", learner, mesh=Mesh(*sizes), debug=True)
  state = init_state(learner.model, learner.optimizer, 0, 16)
  state = strategy.prepare(state)
  batch = next(Batches(config.data.open("train"), 8, seed=0))
  state, metrics = strategy.step(state, strategy.batch(batch))
  assert metrics["finite"]
  batch["inputs"][5, 11] = 10_000  # Beyond the vocabulary.
  with pytest.raises(CheckError, match="tokens must lie in"):
    strategy.step(state, strategy.batch(batch))


@pytest.mark.parametrize(
  ("shape", "layers", "spec"),
  [
    ((4096, 64), 0, ("fsdp", None)),
    ((64, 4096), 0, (None, "fsdp")),
    ((64, 64), 0, ("fsdp", None)),
    # The larger axis is cut that the devices divide.
    ((4095, 64), 0, (None, "fsdp")),
    ((4095, 63), 0, ()),
    ((4096,), 0, ()),
    ((8, 12, 64), 0, (None, None, "fsdp")),
    # Layers under a scan are never cut.
    ((64, 8, 4), 1, (None, "fsdp", None)),
    ((64, 8), 1, ()),
    ((64, 8, 8), 2, ()),
    ((64, 8), 0, ("fsdp", None)),
  ],
)
def test_parameters_are_sharded_by_shape(shape, layers, spec):
  assert partition(shape, {"fsdp": 4}, layers) == PartitionSpec(*spec)
