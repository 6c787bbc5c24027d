"""What a folder may have wrong, and where its parameters may go."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from jaxmodels import interop
from jaxmodels.interop import folder as files
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import family_of
from tests.interop.families.mamba2 import TINY
from tests.interop.test_families import drawn

TENSORS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder with a tiny Mamba-2, its model and its variables."""
  folder = tmp_path_factory.mktemp("interop")
  model = family_of(config := Config(TINY[0])).read(config)
  variables = drawn(model)
  interop.save(folder, model, variables)
  return folder, model, variables


@pytest.fixture
def folder(saved, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(saved[0], tmp_path / "model")


def change(folder, **keys):
  values = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps({**values, **keys}))


def shards(folder, count=2):
  """Cuts the file in several, with an index."""
  tensors = load_file(folder / TENSORS)
  names = sorted(tensors)
  index = {}
  for i in range(count):
    file = f"model-{i + 1:05}-of-{count:05}.safetensors"
    part = {name: tensors[name] for name in names[i::count]}
    save_file(part, folder / file)
    index.update(dict.fromkeys(part, file))
  (folder / TENSORS).unlink()
  (folder / f"{TENSORS}.index.json").write_text(
    json.dumps({"weight_map": index})
  )


def rewrite(folder, edit):
  tensors = load_file(folder / TENSORS)
  edit(tensors)
  save_file(tensors, folder / TENSORS)


def equal(variables, others):
  return jax.tree.all(
    jax.tree.map(lambda a, b: bool(jnp.all(a == b)), variables, others)
  )


def missing_shard(folder):
  shards(folder)
  (folder / "model-00002-of-00002.safetensors").unlink()


def path_in_the_index(folder):
  shards(folder)
  file = folder / f"{TENSORS}.index.json"
  file.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))


def truncated(folder):
  data = (folder / TENSORS).read_bytes()
  (folder / TENSORS).write_bytes(data[: len(data) // 2])


def pickled(folder):
  (folder / TENSORS).rename(folder / "pytorch_model.bin")


def wrong_shape(folder):
  def edit(tensors):
    tensors["backbone.norm_f.weight"] = np.ones(23, np.float32)

  rewrite(folder, edit)


def wrong_rows(folder):
  def edit(tensors):
    tensors["backbone.layers.1.mixer.in_proj.weight"] = np.ones(
      (4, 24), np.float32
    )

  rewrite(folder, edit)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (missing_shard, "model-00002-of-00002.safetensors is missing"),
    (path_in_the_index, "'../a.safetensors' is no name of a file"),
    (truncated, f"{TENSORS} is damaged or no safetensors file"),
    (pickled, "pytorch_model.bin is a pickle"),
    (wrong_shape, r"backbone/norm/scale have the shape \[23\], but .* \[24\]"),
    (wrong_rows, r"in_proj.weight \[4, 24\] does not fit the config"),
    (
      lambda folder: change(folder, model_type="mambo2"),
      "unknown model_type 'mambo2'; did you mean mamba2",
    ),
    (
      lambda folder: change(folder, new_scale=2),
      "unknown key 'new_scale'",
    ),
    (
      lambda folder: change(folder, num_hidden_layers=2),
      "has no tensors backbone.layers.2",
    ),
    (
      lambda folder: change(folder, num_hidden_layers=4),
      "needs the tensors backbone.layers.3",
    ),
    (
      lambda folder: change(folder, hidden_act="tanh"),
      "hidden_act is 'tanh', but only silu",
    ),
    (
      lambda folder: (folder / "config.json").write_text("{"),
      "config.json cannot be read",
    ),
    (
      lambda folder: (folder / "config.json").unlink(),
      "there is no config.json",
    ),
  ],
)
def test_a_damaged_folder_is_one_line_that_names_it(damage, message, folder):
  damage(folder)
  with pytest.raises(interop.FolderError, match=message) as caught:
    interop.load(folder)
  assert str(caught.value).startswith(str(folder))
  assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(interop.FolderError, match="nothing is no folder"):
    interop.load(tmp_path / "nothing")


def test_several_files_are_one_model(folder, saved):
  shards(folder, 3)
  assert equal(interop.load(folder)[1], saved[2])


def test_a_model_is_saved_as_several_files(saved, tmp_path):
  _, model, variables = saved
  interop.save(tmp_path, model, variables, shard_bytes=20_000)
  assert len(list(tmp_path.glob("*.safetensors"))) > 2
  assert equal(interop.load(tmp_path)[1], variables)
  # One file takes the place of several.
  interop.save(tmp_path, model, variables)
  assert {file.name for file in tmp_path.iterdir()} == {"config.json", TENSORS}
  assert (tmp_path / TENSORS).stat().st_mode & 0o044
  assert equal(interop.load(tmp_path)[1], variables)


def test_each_tensor_keeps_its_dtype(folder, saved):
  def edit(tensors):
    for name, value in tensors.items():
      if not name.endswith("A_log"):
        tensors[name] = value.astype(jnp.bfloat16)

  rewrite(folder, edit)
  model, variables = interop.load(folder)
  assert model.param_dtype == jnp.bfloat16
  assert model.dtype == jnp.float32
  mixer = variables["params"]["backbone"]["layer_0"]["mixer"]
  assert mixer["A_log"].dtype == jnp.float32
  assert mixer["D"].dtype == jnp.bfloat16
  interop.save(folder / "again", model, variables)
  first, second = (load_file(f / TENSORS) for f in (folder, folder / "again"))
  assert {k: v.dtype for k, v in first.items()} == {
    k: v.dtype for k, v in second.items()
  }
  assert all(np.array_equal(first[k], second[k]) for k in first)


def test_float64_needs_the_switch_of_jax(folder):
  rewrite(folder, lambda x: x.update({k: v.astype("f8") for k, v in x.items()}))
  with pytest.raises(interop.FolderError, match="switch jax_enable_x64 on"):
    interop.load(folder)
  with jax.enable_x64(True):
    model, variables = interop.load(folder)
  assert model.dtype == jnp.float64
  assert jax.tree.leaves(variables)[0].dtype == jnp.float64


@pytest.mark.parametrize(
  ("kind", "scan_layers"),
  [
    ("Auto", True),
    ("Explicit", False),
    pytest.param("Auto", False, marks=pytest.mark.slow),
    pytest.param("Explicit", True, marks=pytest.mark.slow),
  ],
)
def test_parameters_go_to_a_mesh(saved, tmp_path, kind, scan_layers):
  folder, model, variables = saved
  axis_type = jax.sharding.AxisType[kind]
  mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(axis_type,))

  def placement(path, shape):
    axes = ["fsdp" if size % 4 == 0 else None for size in shape]
    first = axes.index("fsdp") if "fsdp" in axes else len(axes)
    spec = [axis if i == first else None for i, axis in enumerate(axes)]
    return NamedSharding(mesh, PartitionSpec(*spec))

  sharded, loaded = interop.load(
    folder, placement=placement, scan_layers=scan_layers
  )
  table = loaded["params"]["embedding"]["table"]
  assert len({shard.device for shard in table.addressable_shards}) == 4
  # With Explicit axes, a caller chooses shardings that the model can compute.
  if kind == "Auto":
    tokens = jnp.asarray(np.arange(12).reshape(2, 6))
    np.testing.assert_allclose(
      jax.jit(sharded.apply)(loaded, tokens)[0],
      jax.jit(model.apply)(variables, tokens)[0],
      rtol=2e-5,
      atol=2e-5,
    )
  interop.save(tmp_path / "again", sharded, loaded)
  first, second = (
    load_file(folder / TENSORS),
    load_file(tmp_path / "again" / TENSORS),
  )
  assert all(np.array_equal(first[k], second[k]) for k in first)


def test_an_interrupted_save_leaves_the_old_checkpoint(
  folder, saved, monkeypatch
):
  def interrupted(*arguments, **options):
    (folder / ".model-1.partial").touch()
    raise KeyboardInterrupt

  _, model, variables = saved
  before = (folder / TENSORS).read_bytes()
  write = files.safetensors_numpy.save_file
  calls = iter([write, interrupted])
  monkeypatch.setattr(
    files.safetensors_numpy,
    "save_file",
    lambda *arguments, **options: next(calls)(*arguments, **options),
  )
  changed = jax.tree.map(lambda x: x + 1, variables)
  with pytest.raises(KeyboardInterrupt):
    interop.save(folder, model, changed, shard_bytes=20_000)
  assert {file.name for file in folder.iterdir()} == {"config.json", TENSORS}
  assert (folder / TENSORS).read_bytes() == before


def test_a_model_of_no_family_is_refused(saved, tmp_path):
  _, model, variables = saved
  with pytest.raises(interop.FolderError, match="norm = 'layer'"):
    interop.save(tmp_path, model.copy(norm="layer", parent=None), variables)
  with pytest.raises(interop.FolderError, match="no family of interop"):
    interop.save(tmp_path, model.copy(mixers=("lru",), parent=None), variables)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_compare_names_the_first_block_that_drifts(saved):
  _, model, variables = saved
  tokens = jnp.asarray(np.arange(12).reshape(2, 6))
  ours = interop.activations(model, variables, tokens)
  assert list(ours) == [
    "embedding",
    "layer_0",
    "layer_1",
    "layer_2",
    "logits",
  ]
  assert interop.compare(ours, list(ours.values())) is None
  changed = jax.tree.map(lambda x: x, variables)
  layer = changed["params"]["backbone"]["layer_1"]["mixer"]
  layer["D"] = 1.1 * layer["D"]
  theirs = interop.activations(model, changed, tokens)
  drift = interop.compare(ours, theirs)
  assert drift.block == "layer_1"
  assert drift.error > 1e-4
  assert drift.before == 0
  with pytest.raises(interop.FolderError, match="4 of theirs"):
    interop.compare(ours, list(ours.values())[1:])


def test_keys_without_an_effect_are_accepted(folder):
  change(folder, top_k=50, pruned_heads={}, torch_dtype="float16")
  interop.read_model(folder)
  change(folder, pruned_heads={"0": [1]})
  with pytest.raises(interop.FolderError, match="unknown key 'pruned_heads'"):
    interop.read_model(folder)
