"""Dense maps of one-bit weights, their gradients, and their packed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxmodels.layers.one_bit import (
  OneBitDense,
  binarized,
  pack_signs,
  packed,
  unpack_signs,
)
from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel

D, F = 13, 6
# Fields with which the mixers that have no width of heads by default fit 16.
SMALL = {"mamba2": {"head_width": 8}, "mamba3": {"head_width": 8}}
# Mixers that hold others.
NESTED = ("bidirectional", "cross_scan", "parallel", "selective_scan_2d")


def drawn():
  """The parameters of a map, x, and the gradient of its output."""
  rng = np.random.default_rng(0)
  v = rng.normal(size=(D, F))
  v[2, 3] = 0.0  # Its sign is 1.
  params = {"kernel": v, "bias": rng.normal(size=F)}
  params |= {name: rng.normal(size=D) for name in ("scale", "shift")}
  given = params, rng.normal(size=(4, D)), rng.normal(size=(4, F))
  return jax.tree.map(lambda x: x.astype(np.float32), given)


def shapes_of(model):
  return jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 3), np.int32)
  )


def variables_of(model):
  """Variables of the shapes of a model; to draw initial ones costs more."""
  rng = np.random.default_rng(2)
  return jax.tree.map(
    lambda x: 0.3 * rng.normal(size=x.shape).astype(x.dtype), shapes_of(model)
  )


def test_the_map_and_its_gradients_equal_their_formulas():
  """The gradient of V is that of sign(V): no more and no less."""
  params, x, weights = drawn()

  @jax.jit
  def run(params, x):
    def total(params, x):
      y = OneBitDense(F).apply({"params": params}, x)
      return jnp.sum(y * weights), y

    return jax.grad(total, (0, 1), has_aux=True)(params, x)

  (slopes, slope_x), y = run(params, x)
  p, x, dy = jax.tree.map(np.float64, (params, x, weights))
  signs = np.where(p["kernel"] >= 0, 1.0, -1.0)
  kernel = p["scale"][:, None] * signs + p["shift"][:, None]
  outer = x.T @ dy
  wanted = {
    "kernel": p["scale"][:, None] * outer,
    "scale": (signs * outer).sum(1),
    "shift": outer.sum(1),
    "bias": dy.sum(0),
  }
  close = {"rtol": 1e-5, "atol": 1e-5}
  np.testing.assert_allclose(y, x @ kernel + p["bias"], **close)
  np.testing.assert_allclose(slope_x, dy @ kernel.T, **close)
  assert slopes.keys() == wanted.keys()
  for name, slope in slopes.items():
    np.testing.assert_allclose(slope, wanted[name], **close)


def test_initial_scales_and_shifts_fit_the_weights():
  init = jax.jit(OneBitDense(F).init)
  params = init(jax.random.key(0), np.zeros((1, D), np.float32))["params"]
  v = np.float64(params["kernel"])
  shift = v.mean(1)
  np.testing.assert_allclose(params["shift"], shift, rtol=1e-5, atol=1e-7)
  scale = np.abs(v - shift[:, None]).mean(1)
  np.testing.assert_allclose(params["scale"], scale, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 8, 13])
def test_signs_are_packed_exactly(width):
  v = np.random.default_rng(1).normal(size=(2, width, 5)).astype(np.float32)
  v[0, 0, :3] = 0.0, -0.0, 1e-40
  bits = np.asarray(pack_signs(v))
  assert bits.dtype == np.uint8 and bits.shape == (2, -(-width // 8), 5)
  for index in np.ndindex(v.shape):
    layer, i, j = index
    bit = bits[layer, i // 8, j] >> (7 - i % 8) & 1
    assert bit == (v[index] >= 0)
  signs = unpack_signs(jnp.asarray(bits), width, jnp.float32)
  np.testing.assert_array_equal(signs, np.where(v >= 0, 1, -1))


def test_packed_weights_are_the_same_bit_for_bit():
  params, _, _ = drawn()
  apply = jax.jit(OneBitDense(F, use_bias=False).apply)
  # The output of the unit vectors is W itself.
  own, small = (
    apply(variables, np.eye(D, dtype=np.float32))
    for variables in ({"params": params}, packed({"params": params}))
  )
  np.testing.assert_array_equal(own, small)


def test_a_packed_model_has_the_same_logits():
  """Three mixers under a scan; bits are unpacked in it, layer by layer."""
  options = {
    "mamba2": {"head_width": 8, "state_width": 4, "one_bit": True},
    "gla": {"heads": 2, "one_bit": True},
    "softmax_attention": {"heads": 2, "one_bit": True},
  }
  model = LanguageModel(
    11, 16, 6, tuple(options), options, mlp="none", scan_layers=True
  )
  tokens = np.random.default_rng(0).integers(0, 11, (2, 7))
  variables = variables_of(model)
  bits = packed(variables)
  path = "params/backbone/repeats/block_0/mixer/gate/kernel"
  kernel = flatten_dict(bits, sep="/")[path]
  assert kernel.dtype == jnp.uint8 and kernel.shape == (2, 2, 32)
  apply = jax.jit(lambda variables: model.apply(variables, tokens)[0])
  np.testing.assert_allclose(
    apply(bits), apply(variables), rtol=1e-5, atol=1e-6
  )
  kinds = {x.dtype for x in jax.tree.leaves(packed(bits))}
  assert kinds == {jnp.dtype(jnp.uint8), jnp.dtype(jnp.float32)}
  assert jax.tree.all(jax.tree.map(np.array_equal, packed(bits), bits))


@pytest.mark.slow
def test_a_scan_unpacks_one_layer_at_a_time():
  options = {"mamba2": {"one_bit": True}}
  model = LanguageModel(
    11, 128, 8, ("mamba2",), options, mlp="none", scan_layers=True
  )
  bits = jax.eval_shape(packed, shapes_of(model))
  token = jax.ShapeDtypeStruct((1, 1), np.int32)
  found = jax.jit(model.apply).lower(bits, token).compile().memory_analysis()
  signs = sum(
    x.size for x in jax.tree.leaves(bits) if x.dtype == np.dtype(np.uint8)
  )
  # 32 times as many bytes as bits, in eight layers.
  assert found.temp_size_in_bytes < 1.5 * 32 * signs / 8


@pytest.mark.parametrize(
  "name",
  [
    *("mamba2", "bidirectional"),
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in MIXERS
      if name not in ("mamba2", "bidirectional")
    ),
  ],
)
def test_every_mixer_has_maps_of_one_bit(name):
  """The mixers inside of a mixer too; the other parameters stay."""
  plain, small = (
    flatten_dict(
      jax.eval_shape(
        MIXERS[name](16, one_bit=one_bit, **SMALL.get(name, {})).init,
        jax.random.key(0),
        np.zeros((1, 4, 16), np.float32),
      )["params"]
    )
    for one_bit in (False, True)
  )
  assert plain.items() <= small.items()
  more = {path: x.shape for path, x in small.items() if path not in plain}
  maps = {path[:-1] for path in more}
  assert maps and more.keys() == {
    (*path, name) for path in maps for name in ("scale", "shift")
  }
  for path, shape in more.items():
    assert shape == plain[*path[:-1], "kernel"].shape[:-1]
  if name in NESTED:
    kernels = {path[:-1] for path in plain if path[-1] == "kernel"}
    assert maps == {path for path in kernels if path[-1] != "convolution"}


def test_a_trained_model_becomes_one_of_one_bit():
  model = LanguageModel(11, 16, 1, ("gla",), {"gla": {"heads": 2}}, mlp="none")
  small = model.clone(mixer_options={"gla": {"heads": 2, "one_bit": True}})
  variables, like = variables_of(model), shapes_of(small)
  found = binarized(variables, like)
  shapes = jax.tree.map(lambda x: x.shape, (found, like))
  assert shapes[0] == shapes[1]
  flat = flatten_dict(found["params"]["backbone"]["layer_0"]["mixer"], sep="/")
  v = np.float64(flat["key/kernel"])
  np.testing.assert_allclose(flat["key/shift"], v.mean(1), rtol=1e-4, atol=1e-7)
  for fields, match in (({"depth": 2}, "layer_1"), ({"width": 8}, "layer_0")):
    with pytest.raises(ValueError, match=f"they differ in params/.*{match}"):
      binarized(variables, shapes_of(small.clone(**fields)))
  with pytest.raises(ValueError, match="has no weights of one bit: set one_bi"):
    packed(variables)
  wrong = {"params": {**drawn()[0], "kernel": np.zeros((3, F), np.uint8)}}
  with pytest.raises(ValueError, match="OneBitDense: kernel must be"):
    OneBitDense(F).apply(wrong, np.zeros((1, D), np.float32))
