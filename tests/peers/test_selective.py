"""Whole selective mixers against the layers of others, on a CPU.

The layer of the peer keeps its own random parameters, which are mapped to ours.
"""

import warnings

import jax
import numpy as np
import pytest

from jaxmodels import mixers
from jaxmodels.testing import relative_error, tolerance
from tests.peers.compare import load

pytestmark = pytest.mark.slow


def check(mixer, params, module, **place):
  """Compares the outputs of one random input; prints the error."""
  torch = load("torch")
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 37, mixer.width)).astype(np.float32)
  with torch.no_grad():
    wanted = module(torch.tensor(x))
  wanted = wanted[0] if isinstance(wanted, tuple) else wanted
  apply = jax.jit(lambda params, x: mixer.apply(params, x, **place)[0])
  y = apply({"params": params}, x)
  error = relative_error(y, wanted.numpy())
  print(f"{type(mixer).__name__}: {error:.1e}")
  assert error < tolerance(np.float32)


def drawn(module):
  """Random parameters, so that none is at a special value."""
  torch = load("torch")
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  weights = {
    name: parameter.detach().numpy()
    for name, parameter in module.named_parameters()
  }
  return module.eval(), weights


def kernels(weights, **names):
  """Linear maps by our name, from the peer's names."""
  return {
    ours: {"kernel": weights[f"{theirs}.weight"].T}
    for ours, theirs in names.items()
  }


def convolution(weights, name):
  kernel = {"kernel": weights[f"{name}.weight"][:, 0].T}
  return kernel | {"bias": weights[f"{name}.bias"]}


def test_mamba():
  configuration = load("transformers.models.mamba.configuration_mamba")
  modeling = load("transformers.models.mamba.modeling_mamba")
  config = configuration.MambaConfig(
    vocab_size=8, hidden_size=16, state_size=6, num_hidden_layers=1
  )
  module, weights = drawn(modeling.MambaMixer(config, 0))
  projected = np.split(weights["in_proj.weight"], 2)
  selected = np.split(weights["x_proj.weight"], [1, 7])
  parts = zip(
    ("input", "gate", "step_down", "B", "C"),
    (*projected, *selected),
    strict=True,
  )
  params = {
    **{name: {"kernel": weight.T} for name, weight in parts},
    **kernels(weights, step_up="dt_proj", output="out_proj"),
    "convolution": convolution(weights, "conv1d"),
    "dt_bias": weights["dt_proj.bias"],
    "A_log": weights["A_log"],
    "D": weights["D"],
  }
  check(mixers.Mamba(width=16, state_width=6), params, module)


def test_mlstm():
  """The layer of xLSTM 7B, in the parallel form of transformers."""
  configuration = load("transformers.models.xlstm.configuration_xlstm")
  modeling = load("transformers.models.xlstm.modeling_xlstm")
  config = configuration.xLSTMConfig(
    hidden_size=32, num_heads=2, num_hidden_layers=1, vocab_size=8,
    autocast_kernel_dtype="float32",
  )  # fmt: skip
  module, weights = drawn(modeling.xLSTMLayer(config))
  params = kernels(
    weights, query="q", key="k", value="v", output="out_proj",
    output_gate="ogate_preact", input_gate="igate_preact",
    forget_gate="fgate_preact",
  )  # fmt: skip
  params |= {
    "norm": {"scale": weights["multihead_norm.weight"], "bias": np.zeros(32)},
    "input_gate_bias": weights["igate_preact.bias"],
    "forget_gate_bias": weights["fgate_preact.bias"],
  }
  params = jax.tree.map(np.float32, params)
  check(mixers.MLSTM(width=32, heads=2), params, module)


def patched(monkeypatch, name, **functions):
  """A module of fla's layers whose kernels for a GPU are plain functions."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    module = load(f"fla.layers.{name}", "pip install flash-linear-attention")
  for function, plain in functions.items():
    monkeypatch.setattr(module, function, plain)
  return module


def shifted_difference(x, cu_seqlens=None, output_cache=False, cache=None):
  """x_{t-1} - x_t."""
  delta = load("torch.nn.functional").pad(x, (0, 0, 1, -1)) - x
  return (delta, None) if output_cache else delta


def built(kind, **options):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return kind(hidden_size=32, layer_idx=1, **options)


def test_rwkv6(monkeypatch):
  """The layer of fla, on its own plain recurrence."""
  nn = load("torch").nn
  naive = load("fla.ops.rwkv6.recurrent_naive").naive_recurrent_rwkv6

  def recurrence(r, k, v, w, u, scale, **unused):
    y, _ = naive(*(x.transpose(1, 2) for x in (r, k, v, w)), u, scale)
    return y.transpose(1, 2), None

  class GroupNorm(nn.GroupNorm):
    def __init__(self, groups, width, elementwise_affine, bias, eps):
      super().__init__(groups, width, eps)

    def forward(self, x):
      return super().forward(x.flatten(0, 1)).reshape(x.shape)

  module = patched(
    monkeypatch, "rwkv6", token_shift=shifted_difference,
    fused_recurrent_rwkv6=recurrence, GroupNorm=GroupNorm,
  )  # fmt: skip
  layer, w = drawn(
    built(module.RWKV6Attention, expand_k=1.0, num_heads=2,
          proj_low_rank_dim=3, gate_low_rank_dim=5)
  )  # fmt: skip
  layer.gate_fn = nn.functional.silu
  params = kernels(
    w, mix_down="x_proj.0.linear", key="k_proj.linear", value="v_proj.linear",
    receptance="r_proj.linear", output_gate="g_proj.linear", output="o_proj",
    decay_down="w_proj.linear.lora.0", decay_up="w_proj.linear.lora.2",
  )  # fmt: skip
  order = {"receptance": 0, "decay": 1, "key": 2, "value": 3, "output_gate": 4}
  ours = ("decay", "key", "value", "receptance", "output_gate")
  places = [order[name] for name in ours]
  down = params["mix_down"]["kernel"].reshape(32, 5, 3)[:, places]
  up = w["x_proj.2.weight"].reshape(32, 5, 3)[:, places]
  params |= {
    **{f"mix_{name}": w["x_bias"][i] for name, i in order.items()},
    "mix_all": w["x_proj.0.mu"],
    "mix_down": {"kernel": down.reshape(32, 15)},
    "mix_up": up.transpose(1, 2, 0),
    "decay_bias": w["w_proj.linear.lora.2.bias"],
    "bonus": w["bonus"].reshape(-1),
    "norm": {"scale": w["g_norm.weight"], "bias": w["g_norm.bias"]},
  }
  mixer = mixers.RWKV6(
    32, head_width=16, mix_rank=3, decay_rank=5, norm_epsilon=1e-5
  )
  check(mixer, params, layer)


def test_rwkv7(monkeypatch):
  """The same of the second layer of a stack, which mixes in the first value."""
  torch = load("torch")
  naive = load("fla.ops.generalized_delta_rule.dplr.naive").dplr_recurrence
  ops = "fla.ops.rwkv7"

  def recurrence(r, w, k, v, kk, a, **unused):
    r = r * r.shape[-1] ** 0.5
    inputs = (x.transpose(1, 2) for x in (r, k, v, -kk, kk * a, w))
    return naive(*inputs)[0].transpose(1, 2), None

  module = patched(
    monkeypatch, "rwkv7", token_shift=shifted_difference,
    fused_mul_recurrent_rwkv7=recurrence,
    fused_addcmul_rwkv7=load(f"{ops}.fused_addcmul").torch_addcmul_rwkv7,
    fused_k_rwkv7=load(f"{ops}.fused_k_update").k_update_ref,
    gate_output_correction=load(
      f"{ops}.gate_output_correction"
    ).gate_output_correction_ref,
  )  # fmt: skip
  layer, w = drawn(
    built(module.RWKV7Attention, head_dim=16, num_hidden_layers=2,
          norm_eps=1e-5, fuse_norm=False)
  )  # fmt: skip
  low_rank = {"decay": "w", "rate": "a", "value": "v", "gate": "g"}
  params = kernels(
    w, key="k_proj", value="v_proj", receptance="r_proj", output="o_proj",
    **{f"{n}_down": f"{x}_lora.lora.0" for n, x in low_rank.items()},
    **{f"{n}_up": f"{x}_lora.lora.2" for n, x in low_rank.items()},
  )  # fmt: skip
  mixes = {"receptance": "r", "decay": "w", "key": "k", "value": "v"}
  mixes |= {"rate": "a", "output_gate": "g"}
  params |= {
    **{f"mix_{name}": w[f"x_{x}"].reshape(-1) for name, x in mixes.items()},
    **{
      f"{name}_bias": w[f"{x}_lora.lora.2.bias"]
      for name, x in low_rank.items()
      if name != "gate"
    },
    "xi": w["k_k"],
    "alpha": w["k_a"],
    "rho": w["r_k"].reshape(-1),
    "norm": {"scale": w["g_norm.weight"], "bias": w["g_norm.bias"]},
  }
  first = np.random.default_rng(1).normal(size=(2, 37, 32)).astype(np.float32)
  shared = {"first_value": first, "has_first_value": np.bool_(True)}
  check(
    mixers.RWKV7(32, head_width=16, norm_epsilon=16e-5),
    params,
    lambda x: layer(x, v_first=torch.tensor(first)),
    layer=1,
    depth=2,
    shared=shared,
  )


def test_mlstm_block():
  """The layer of the authors' package, whose norm stores its scale less 1."""
  hint = "pip install --no-deps xlstm; pip install dacite omegaconf"
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peer = load("xlstm.blocks.mlstm.layer", hint)
  config = peer.mLSTMLayerConfig(embedding_dim=32, context_length=37)
  layer, w = drawn(peer.mLSTMLayer(config))
  inputs, gate = np.split(w["proj_up.weight"], 2)
  blocks = {
    name: w[f"{name[0]}_proj.weight"].swapaxes(1, 2)
    for name in ("query", "key", "value")
  }
  params = blocks | {
    "input": {"kernel": inputs.T},
    "gate": {"kernel": gate.T},
    "convolution": convolution(w, "conv1d.conv"),
    **kernels(
      w, input_gate="mlstm_cell.igate", forget_gate="mlstm_cell.fgate",
      output="proj_down",
    ),
    "input_gate_bias": w["mlstm_cell.igate.bias"],
    "forget_gate_bias": w["mlstm_cell.fgate.bias"],
    "norm": {
      "scale": 1 + w["mlstm_cell.outnorm.weight"],
      "bias": np.zeros(64, np.float32),
    },
    "skip": w["learnable_skip"],
  }  # fmt: skip
  check(mixers.MLSTMBlock(32, norm_epsilon=1e-5), params, layer)
