"""Softmax attention is that of public models, in float64, with its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import SoftmaxAttention
from tests.peers.compare import load
from tests.peers.interop.parity import at_least, error, randomize

pytestmark = pytest.mark.slow
WIDTH, LENGTH = 12, 11
X = np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH))
NAMES = {"query": "q", "key": "k", "value": "v", "output": "o"}


def check(family, prefix, bound=1e-13, window=None, config=None, **options):
  """Asserts that our layer equals their attention layer, weights mapped.

  Args:
    family: The name of a family of transformers.
    prefix: The prefix of its classes.
    bound: Of the error relative to the largest output.
    window: The window of theirs.
    config: Options of their config.
    **options: Options of ours besides the sizes and the base of the rotation.
  """
  torch = load("torch")
  torch.set_num_threads(1)
  models = f"transformers.models.{family}"
  modeling = load(f"{models}.modeling_{family}")
  make = getattr(load(f"{models}.configuration_{family}"), f"{prefix}Config")
  made = make(
    hidden_size=WIDTH, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, **(config or {}),
  )  # fmt: skip
  made._attn_implementation = "eager"
  theirs = getattr(modeling, f"{prefix}Attention")(made, 0)
  randomize(theirs, scale=1.5)
  theirs = theirs.double().eval()
  w = {key: x.numpy() for key, x in theirs.state_dict().items()}
  far = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
  seen = (far >= 0) & (far < (window or LENGTH))
  mask = np.where(seen, 0, -np.inf)[None, None]
  with torch.no_grad(), at_least("float64"):
    # Their tables in float64 too, which `double` alone would not make.
    rotary = getattr(modeling, f"{prefix}RotaryEmbedding")(config=made)
    places = torch.arange(LENGTH)[None]
    own = rotary.double()(torch.tensor(X), places)
    if hasattr(theirs, "rotary_emb"):
      theirs.rotary_emb = rotary
      given = {"position_ids": places}
    else:
      given = {"position_embeddings": own}
    given["attention_mask"] = torch.tensor(mask)
    wanted = theirs(torch.tensor(X), **given)[0].numpy()
  params = {ours: dense(w, f"{name}_proj") for ours, name in NAMES.items()}
  if "gate" in options:
    split_gate(params)
  for ours, name in NAMES.items():
    if f"{name}_norm.weight" in w:
      params[f"{ours}_norm"] = {"scale": w[f"{name}_norm.weight"]}
  with jax.enable_x64(True):
    layer = SoftmaxAttention(
      WIDTH, heads=4, kv_heads=2, head_width=8, window=window,
      rotary_base=made.rope_parameters["rope_theta"], dtype=jnp.float64,
      param_dtype=jnp.float64, **options,
    )  # fmt: skip
    shapes = jax.eval_shape(layer.init, jax.random.key(0), X)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    got, _ = jax.jit(layer.apply)({"params": params}, X)
  assert error(got, wanted) < bound


def dense(w, name):
  """Their linear map `name` as ours."""
  found = {"kernel": w[f"{name}.weight"].T}
  if f"{name}.bias" in w:
    found["bias"] = w[f"{name}.bias"]
  return found


def split_gate(params):
  """Per head, their rows are the query's and then the gate's."""
  both = {name: x.reshape(-1, 4, 2, 8) for name, x in params["query"].items()}
  for place, ours in enumerate(("query", "output_gate")):
    params[ours] = {
      "kernel": both["kernel"][:, :, place].reshape(WIDTH, 32),
      **(
        {"bias": both["bias"][0, :, place].reshape(32)}
        if "bias" in both
        else {}
      ),
    }


@pytest.mark.parametrize("bias", [False, True])
def test_qwen3_next(bias):
  """A gate, norms per head with 1 + w, a quarter of the channels rotated."""
  check(
    "qwen3_next", "Qwen3Next", config={"attention_bias": bias},
    qk_norm="head", qk_norm_offset=1.0, gate="sigmoid", rotary_fraction=0.25,
    qkv_bias=bias, output_bias=bias, norm_epsilon=1e-6,
  )  # fmt: skip


def test_olmo_hybrid():
  check(
    "olmo_hybrid", "OlmoHybrid", qk_norm="whole", norm_epsilon=1e-4,
    config={
      "rope_parameters": {"rope_type": "default", "rope_theta": 5e3},
      "rms_norm_eps": 1e-4,
    },
  )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
def test_recurrent_gemma(bias):
  """The output has a bias in any case; a window, and half is rotated."""
  check(
    "recurrent_gemma", "RecurrentGemma", window=4, qkv_bias=bias,
    output_bias=True, rotary_fraction=0.5,
    config={"attention_bias": bias, "attention_window_size": 4},
  )  # fmt: skip


ROPES = {
  # Without an effect in sequences of up to `max_position_embeddings` tokens.
  "dynamic": ({"factor": 3.0}, {}),
  "linear": ({"factor": 3.0}, {"rotary_factor": 3.0}),
  "llama3": (
    {
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64,
    },
    {"rotary_factor": 8.0, "rotary_length": 64, "rotary_turns": (1.0, 4.0)},
  ),
  "yarn": (
    {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8},
    {
      "rotary_factor": 4.0,
      "rotary_length": 64,
      "rotary_turns": (1.0, 8.0),
      "rotary_ramp": "whole_channels",
      "rotary_gain": 0.1 * np.log(4.0) + 1,
    },
  ),
  "yarn, not rounded": (
    {
      "factor": 4.0,
      "original_max_position_embeddings": 64,
      "truncate": False,
      "attention_factor": 1.0,
    },
    {
      "rotary_factor": 4.0,
      "rotary_length": 64,
      "rotary_ramp": "channels",
    },
  ),
}


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_rotations_for_longer_sequences(name, fraction):
  theirs, ours = ROPES[name]
  check(
    "bamba", "Bamba", rotary_fraction=fraction, **ours,
    config={
      "mamba_n_heads": 4,
      "rope_parameters": {
        "rope_type": name.split(",")[0],
        "rope_theta": 500.0,
        "partial_rotary_factor": fraction,
        **theirs,
      },
    },
  )  # fmt: skip
