"""Mamba and Mamba-2: special cases, published sizes, memory, and parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import MIXERS, Mamba, Mamba2
from jaxmodels.models import LanguageModel

ONE = 30.0  # SiLU(30) is 30 in float32.


def with_values(layer, **values):
  """Parameters that are zero, except for the given ones, by joined names."""
  shapes = jax.eval_shape(
    layer.init, jax.random.key(0), jnp.zeros((1, 1, layer.width))
  )["params"]

  def value(path, leaf):
    name = "_".join(key.key for key in path)
    wanted = np.broadcast_to(values.pop(name, 0.0), leaf.shape)
    return np.asarray(wanted, leaf.dtype)

  params = jax.tree_util.tree_map_with_path(value, shapes)
  assert not values
  return {"params": params}


def test_constant_projections_give_s4d():
  """A convolution with `sum_n C_n exp(dt A_n)^j dt B_n`, S4D by Euler's rule.

  Channel 0 of x is 1, and only it reaches dt, B and C.
  """
  layer, rng = Mamba(width=3, expand=1, state_width=4, step_rank=1), np.random
  rng = rng.default_rng(0)
  rates, b, c = rng.uniform(0.1, 2, (3, 4)), *rng.normal(size=(2, 4))
  first = np.eye(3)[:, :1]
  params = with_values(
    layer,
    convolution_kernel=np.eye(4)[3][:, None],
    input_kernel=np.eye(3),
    gate_kernel=ONE * first,
    A_log=np.log(rates),
    B_kernel=first * b,
    C_kernel=first * c,
    dt_bias=np.array([-1.0, 0.0, 1.0]),
    output_kernel=np.eye(3),
  )
  length = 50
  x = rng.normal(size=(length, 3))
  x[:, 0] = 1
  y, _ = jax.jit(layer.apply)(params, x[None].astype(np.float32))
  # The constant channel is SiLU(1) where it reaches B and C.
  silu = x / (1 + np.exp(-x))
  dt, scale = np.log1p(np.exp([-1.0, 0.0, 1.0])), silu[0, 0] ** 2
  powers = np.exp(-dt[:, None] * rates) ** np.arange(length)[:, None, None]
  kernel = scale * (powers @ (b * c)) * dt
  wanted = np.zeros((length, 3))
  for t in range(length):
    for j in range(t + 1):
      wanted[t] += kernel[j] * silu[t - j]
  # The gate is SiLU of 30 in channel 0, and 30 x 0 elsewhere: one for all.
  np.testing.assert_allclose(y[0] / ONE, wanted, atol=1e-5)


def test_unscaled_norms_are_those_with_a_scale_of_1():
  x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
  sizes = {"state_width": 3, "step_rank": 2, "norm_epsilon": 0.1}
  scaled = Mamba(width=8, step_norms="scaled", **sizes)
  params = jax.jit(scaled.init)(jax.random.key(0), x)
  unscaled = Mamba(width=8, step_norms="unscaled", **sizes)
  layers = (unscaled, scaled, Mamba(width=8, **sizes))
  y, wanted, plain = jax.jit(
    lambda params: [layer.apply(params, x)[0] for layer in layers]
  )(params)
  np.testing.assert_allclose(y, wanted, atol=1e-6)
  assert np.abs(y - plain).max() > 1e-3


@pytest.mark.parametrize(
  "fields", [{"step_norms": "rms"}, {"step_limits": (1.0, 0.5)}]
)
def test_wrong_options_are_named(fields):
  with pytest.raises(ValueError, match=f"Mamba: {next(iter(fields))} must"):
    Mamba(width=4, **fields).init_state(1)


@pytest.mark.parametrize(
  ("name", "vocabulary", "wanted"),
  [("mamba", 50280, 129_135_360), ("mamba2", 50288, 128_989_632)],
)
def test_the_parameters_of_the_models_of_130m(name, vocabulary, wanted):
  model = LanguageModel(
    vocabulary, 768, 24, (name,), mlp="none", scan_layers=True
  )
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == wanted


@pytest.mark.parametrize("gradient", [False, True])
def test_mamba2_stores_no_keys_repeated_over_the_heads_of_a_group(gradient):
  layer = Mamba2(width=32, head_width=1, state_width=64, groups=1)
  heads = 64

  def bytes_for(length):
    x = jax.ShapeDtypeStruct((1, length, 32), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def loss(params, x):
      return jnp.sum(layer.apply(params, x)[0] ** 2)

    run = jax.jit(jax.grad(loss) if gradient else loss)
    program = run.lower(params, x).compile()
    return program.memory_analysis().temp_size_in_bytes

  length, repeated = 1024, 1024 * heads * 64 * 4
  assert bytes_for(2 * length) - bytes_for(length) < repeated


def parity_layer(name, **fields):
  """A token of 1 flips the state and adds what makes it 0 or w in turn.

  At a token of 0, dt is nearly 0: the transition is 1 and nothing is written.
  """
  if name == "mamba":
    layer = Mamba(width=2, expand=1, state_width=1, step_rank=1, **fields)
    steps = {
      "step_down_kernel": [[1.0], [0.0]],
      "step_up_kernel": 20.0,
      "B_kernel": [[1.0], [0.0]],
      "C_kernel": [[0.0], [1.0]],
    }
    inputs = {"input_kernel": np.eye(2)}
  else:
    layer = Mamba2(width=2, expand=1, head_width=2, state_width=1, **fields)
    # u, B and C are 1 at each token; dt B u is 0 where dt is.
    steps = {"step_kernel": [[20.0], [0.0]], "norm_scale": 1.0}
    inputs = {"input_kernel": [[0.0] * 4, [1.0] * 4]}
  return layer, with_values(
    layer,
    convolution_kernel=np.eye(4)[3][:, None],
    gate_kernel=[[0.0, 0.0], [1.0, 1.0]],
    dt_bias=-200.0,
    output_kernel=np.eye(2),
    **steps,
    **inputs,
  )


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_layer_set_by_hand_computes_parity(name):
  bits = np.random.default_rng(0).integers(0, 2, (1, 512))
  x = np.stack([ONE * bits, ONE * np.ones_like(bits)], -1).astype(np.float32)
  parity = np.cumsum(bits, 1) % 2 == 1

  def odd(**fields):
    layer, params = parity_layer(name, **fields)
    y = np.asarray(jax.jit(layer.apply)(params, x)[0])[..., 0]
    assert y.any()
    return np.abs(y) > np.abs(y).max() / 2

  np.testing.assert_array_equal(odd(negative_eigenvalues=True), parity)
  # With a transition of exp(dt A) the same layer shows that a 1 has occurred.
  np.testing.assert_array_equal(odd(), np.cumsum(bits, 1) > 0)


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_positive_transitions_alone_cannot_alternate(name):
  """Parity alternates while all tokens are 1; a fixed a >= 0 makes y settle."""
  changes = {}
  for negative in (False, True):
    sizes = {"head_width": 4, "state_width": 3} if name == "mamba2" else {}
    layer = MIXERS[name](width=4, negative_eigenvalues=negative, **sizes)
    x = np.ones((1, 600, 4), np.float32)

    def last_two(key, layer=layer, x=x):
      params = layer.init(key, x)["params"]
      bias = params["dt_bias"]  # So large that exp(dt A) is near 0.
      params = {**params, "dt_bias": jnp.full_like(bias, 9.0)}
      y, _ = layer.apply({"params": params}, x)
      return y[0, -1] - y[0, -2], y[0, -1]

    keys = jax.random.split(jax.random.key(0), 8)
    change, y = jax.jit(jax.vmap(last_two))(keys)
    changes[negative] = np.abs(change).max(1) / np.abs(y).max(1)
  assert changes[False].max() < 1e-4
  assert changes[True].min() > 0.01
