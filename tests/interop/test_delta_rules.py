"""Files of models with delta rules whose layout is a trap."""

import math
import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors import numpy as safetensors

from jaxmodels import interop
from jaxmodels.interop.checkpoint import difference
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families import FAMILIES, family_of
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.mixers import SoftmaxAttention
from jaxmodels.models import LanguageModel
from tests.interop.families import (
  gated_deltanet,
  kimi_linear,
  olmo_hybrid,
  qwen3_5,
  qwen3_next,
)
from tests.interop.test_families import drawn


def model_of(values):
  config = Config(values)
  return family_of(config).read(config)


def saved(values, folder):
  """A model of a config, its parameters, and its file."""
  model = model_of(values)
  variables = drawn(model)
  interop.save(folder, model, variables, family=family_of(Config(values)).name)
  params = traverse_util.flatten_dict(variables["params"], sep="/")
  tensors = safetensors.load_file(folder / "model.safetensors")
  return model, variables, params, tensors


def rewritten(folder, tensors, config=None):
  """Writes other tensors and, if it is given, another config."""
  safetensors.save_file(tensors, folder / "model.safetensors")
  if config is not None:
    interop.folder.write_config(folder, config)
  return interop.load(folder)[1]


def same(left, right):
  return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_qwen3_next_interleaves_the_rows_of_each_key_head(tmp_path):
  """Each key head has [q, k, v, v, z, z], and [b, b, a, a]."""
  *_, params, tensors = saved(qwen3_next.TINY[0], tmp_path)
  ours = {
    name: params[f"backbone/layer_0/mixer/{name}/kernel"].T
    for name in ("query", "key", "value", "output_gate", "beta", "decay")
  }
  prefix = "model.layers.0.linear_attn"
  rows, gates = [], []
  for head in range(2):
    keys = slice(6 * head, 6 * head + 6)
    values = slice(8 * head, 8 * head + 8)
    rows += [ours[name][keys] for name in ("query", "key")]
    rows += [ours[name][values] for name in ("value", "output_gate")]
    pair = slice(2 * head, 2 * head + 2)
    gates += [ours[name][pair] for name in ("beta", "decay")]
  wanted = np.concatenate(rows)
  np.testing.assert_array_equal(
    tensors[f"{prefix}.in_proj_qkvz.weight"], wanted
  )
  np.testing.assert_array_equal(
    tensors[f"{prefix}.in_proj_ba.weight"], np.concatenate(gates)
  )


def test_the_gate_of_attention_follows_the_query_of_each_head(tmp_path):
  *_, params, tensors = saved(qwen3_5.TINY[0], tmp_path)
  q, gate = (
    params[f"backbone/layer_1/mixer/{name}/kernel"].T.reshape(3, 8, 24)
    for name in ("query", "output_gate")
  )
  wanted = np.concatenate([q, gate], 1).reshape(48, 24)
  name = "model.layers.1.self_attn.q_proj.weight"
  np.testing.assert_array_equal(tensors[name], wanted)


def test_a_model_of_text_and_images_gives_its_text(tmp_path):
  values = qwen3_5.TINY[0]
  model, variables, _, tensors = saved(values, tmp_path)
  tensors = {
    name.replace("model.", "model.language_model.", 1): value
    for name, value in tensors.items()
  }
  tensors["model.visual.patch_embed.weight"] = np.zeros(3, np.float32)
  tensors["mtp.fc.weight"] = np.zeros(3, np.float32)
  config = {"model_type": "qwen3_5", "text_config": values, "vision_config": {}}
  assert same(rewritten(tmp_path, tensors, config), variables)
  # What is saved like this folder is the text alone.
  interop.save(tmp_path / "text", model, variables, like=tmp_path)
  again, loaded = interop.load(tmp_path / "text")
  assert same(loaded, variables)
  assert difference(model, again) is None
  # Other tensors are still unknown.
  tensors["model.other"] = np.zeros(3, np.float32)
  with pytest.raises(FolderError, match=r"has no tensors model\.other"):
    rewritten(tmp_path, tensors)


def test_olmo_hybrid_reads_convolutions_cut_anywhere(tmp_path):
  """transformers cuts them in equal parts, other files by their widths."""
  model, variables, params, tensors = saved(olmo_hybrid.TINY[0], tmp_path)
  names = [f"model.layers.0.linear_attn.{x}_conv1d.weight" for x in "qkv"]
  assert [len(tensors[name]) for name in names] == [26, 26, 24]
  own = np.concatenate([tensors[name] for name in names])
  kernels = [
    params[f"backbone/layer_0/mixer/{name}_convolution/kernel"]
    for name in ("query", "key", "value")
  ]
  widths = [kernel.shape[1] for kernel in kernels]
  assert widths == [18, 18, 40]
  np.testing.assert_array_equal(own[:, 0].T, np.concatenate(kernels, 1))
  parts = np.split(own, np.cumsum(widths)[:-1])
  tensors |= dict(zip(names, map(np.ascontiguousarray, parts), strict=True))
  # Published layers of attention have another name for a norm, too.
  norm = "model.layers.1.feedforward_layer_norm.weight"
  published = "model.layers.1.post_attention_layernorm.weight"
  tensors[published] = tensors.pop(norm)
  assert same(rewritten(tmp_path, tensors), variables)
  # What is saved like a folder has the names and cuts of that folder.
  interop.save(tmp_path / "again", model, variables, like=tmp_path)
  again = safetensors.load_file(tmp_path / "again" / "model.safetensors")
  assert same(again, tensors)


def test_kimi_linear_has_experts_under_two_names(tmp_path):
  _, variables, _, tensors = saved(kimi_linear.TINY[0], tmp_path)
  assert tensors["model.layers.0.self_attn.A_log"].shape == (1, 1, 3, 1)
  dense = "model.layers.0.block_sparse_moe."
  tensors = {
    name.replace(dense, "model.layers.0.mlp."): value
    for name, value in tensors.items()
  }
  assert same(rewritten(tmp_path, tensors), variables)


@pytest.mark.parametrize("record", [kimi_linear, qwen3_next])
def test_experts_may_share_a_tensor(record, tmp_path):
  model, variables, params, tensors = saved(record.TINY[0], tmp_path)
  tensors = {k: x for k, x in tensors.items() if ".experts." not in k}
  for path in params:
    layer = re.fullmatch(r"backbone/layer_(\d)/mlp/router/kernel", path)
    if layer is None:
      continue
    gate, value, output = (
      np.swapaxes(params[f"backbone/layer_{layer[1]}/mlp/{name}"], 1, 2)
      for name in ("gate", "value", "output")
    )
    prefix = f"model.layers.{layer[1]}.mlp.experts"
    tensors[f"{prefix}.gate_up_proj"] = np.concatenate([gate, value], 1)
    tensors[f"{prefix}.down_proj"] = np.ascontiguousarray(output)
  assert any(name.endswith("gate_up_proj") for name in tensors)
  assert same(rewritten(tmp_path, tensors), variables)
  interop.save(tmp_path / "again", model, variables, like=tmp_path)
  again = safetensors.load_file(tmp_path / "again" / "model.safetensors")
  assert same(again, tensors)


@pytest.mark.parametrize("name", ["gated_deltanet", "gla"])
def test_a_model_with_default_sizes_is_saved(name, tmp_path):
  """A config states the sizes that None stands for."""
  model = LanguageModel(50, 32, 1, (name,))
  variables = drawn(model)
  interop.save(tmp_path, model, variables)
  again, loaded = interop.load(tmp_path)
  assert same(loaded, variables)
  assert difference(model, again) is None
  # KDA of fla has a gate of low rank, which is no size by default.
  with pytest.raises(FolderError, match="kda cannot hold output_gate_rank"):
    model = LanguageModel(50, 32, 1, ("kda",))
    interop.save(tmp_path, model, drawn(model))


def test_fla_and_we_read_the_same_width_of_values():
  """The product 11 * (15 / 11) is below 15, and fla rounds it down."""
  values = gated_deltanet.TINY[0] | {"head_dim": 11, "expand_v": 15 / 11}
  model = model_of(values)
  written = FAMILIES["gated_deltanet"].write(model)
  assert int(11 * written["expand_v"]) == 15
  assert difference(model, model_of(values | written)) is None


ROTARY = [
  {"rope_theta": 500.0, "partial_rotary_factor": 0.5},
  {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
  {
    "rope_scaling": {
      "type": "llama3",
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64,
    }
  },
  {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}},
  {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}},
  {"rope_theta": None},
]


@pytest.mark.parametrize("values", ROTARY)
def test_rotary_positions_are_read_and_written(values):
  fields = read_rotary(Config(values), 8, 256)
  mixer = SoftmaxAttention(16, **fields)
  written = {"rope_parameters": write_rotary(mixer)}
  assert read_rotary(Config(written), 8, 256) == fields


def test_rotary_positions_have_the_numbers_of_their_config():
  llama = read_rotary(Config(ROTARY[2]), 8, 256)
  assert llama["rotary_turns"] == (1.0, 4.0)
  assert llama["rotary_length"] == 64
  yarn = read_rotary(Config(ROTARY[3]), 8, 256)
  assert yarn["rotary_gain"] == 0.1 * math.log(4) + 1
  assert yarn["rotary_length"] == 256
  assert yarn["rotary_ramp"] == "whole_channels"


def test_an_odd_number_of_rotated_channels_is_rounded_up():
  """Published code then has the speeds base^(-2i / 3) for 4 channels."""
  config = Config({"rope_theta": 64.0, "partial_rotary_factor": 0.4})
  fields = read_rotary(config, 8, 256)
  assert fields["rotary_fraction"] * 8 == 4
  assert fields["rotary_base"] ** (-2 / 4) == pytest.approx(64.0 ** (-2 / 3))


@pytest.mark.parametrize(
  ("values", "match"),
  [
    ({"rope_type": "longrope"}, "rope_type is 'longrope'; known"),
    ({"rope_type": "linear"}, "the key 'factor' is missing"),
  ],
)
def test_other_rotary_positions_are_refused(values, match):
  with pytest.raises(FolderError, match=match):
    read_rotary(Config({"rope_parameters": values}), 8, 256)


@pytest.mark.parametrize(
  ("record", "changed", "match"),
  [
    (qwen3_5, {"hidden_act": "mish"}, "hidden_act is 'mish', but only silu"),
    (qwen3_5, {"layer_types": ["full_attention"]}, "must name 3 layers"),
    (qwen3_5, {"sliding_window": 8}, "unknown key 'sliding_window'"),
    (kimi_linear, {"mlp_layer_types": ["moe"] * 2}, "2 times dense or sparse"),
    (kimi_linear, {"mla_use_nope": False}, "mla_use_nope is False"),
  ],
)
def test_a_config_that_is_not_supported_is_refused(record, changed, match):
  config = Config(record.TINY[0] | changed)
  with pytest.raises(FolderError, match=match):
    family_of(config).read(config)
    config.check_all_read()
