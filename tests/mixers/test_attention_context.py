"""Full attention has all of its context, or says that it has not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxmodels.mixers import SoftmaxAttention
from jaxmodels.models import LanguageModel
from jaxmodels.ops.engine import checks

BOUND = "SoftmaxAttention: max_length is"


def attention(**fields):
  layer = SoftmaxAttention(8, heads=2, **fields)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 12, 8)).astype(np.float32)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x[:, :2])
  params = jax.tree.map(
    lambda p: rng.normal(size=p.shape).astype(p.dtype), shapes
  )
  return layer, params, x


def test_a_sequence_longer_than_max_length_is_refused():
  layer, params, x = attention(max_length=8)
  jax.eval_shape(layer.apply, params, x[:, :8])
  match = f"{BOUND} 8, but the sequence has 9 tokens: raise max_length"
  for state in (None, layer.init_state(2)):
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(layer.apply, params, x[:, :9], state)
  # By default, too, and a window is what it was asked to be.
  long = jax.ShapeDtypeStruct((1, 2049, 8), np.float32)
  with pytest.raises(ValueError, match=f"{BOUND} 2048, .* 2049 tokens"):
    jax.eval_shape(SoftmaxAttention(8).apply, params, long)
  jax.eval_shape(SoftmaxAttention(8, window=4).apply, params, long)


def test_pieces_of_a_longer_sequence_count_together():
  whole, params, x = attention(max_length=8)
  layer = whole.clone(axis_name="s")
  mesh = jax.make_mesh((4,), ("s",), axis_types=(jax.sharding.AxisType.Auto,))
  along = jax.P(None, "s")
  run = jax.shard_map(
    lambda x: layer.apply(params, x)[0],
    mesh=mesh,
    in_specs=along,
    out_specs=along,
  )
  jax.eval_shape(run, x[:, :8])
  with pytest.raises(ValueError, match=f"{BOUND} 8, .* 12 tokens"):
    jax.eval_shape(run, x)


@pytest.mark.slow
def test_decoding_past_max_length_is_never_a_window():
  layer, params, x = attention(max_length=8)
  roomy = layer.clone(max_length=12)
  wanted, _ = jax.jit(roomy.apply)(params, x)
  step = jax.jit(layer.apply)
  first, state = step(params, x[:, :5], layer.init_state(2))
  first, wanted = np.asarray(first), np.asarray(wanted)
  np.testing.assert_allclose(first, wanted[:, :5], rtol=1e-4, atol=1e-6)
  # Compiled: the tokens that the cache has room for are right, others NaN.
  rest = np.asarray(step(params, x[:, 5:10], state)[0])
  np.testing.assert_allclose(rest[:, :3], wanted[:, 5:8], rtol=1e-4, atol=1e-6)
  assert np.isnan(rest[:, 3:]).all()
  # In the first row a document starts, and its tokens count from 0 again.
  ids = np.array([[0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], np.int32)
  packed = np.asarray(step(params, x[:, 5:10], state, segment_ids=ids)[0])
  assert np.isfinite(packed[0]).all()
  assert np.isnan(packed[1, 3:]).all()
  # Where positions are known, and under the numeric guards, an error.
  match = f"{BOUND} 8, but a token has 9 others before it: raise max_length"
  with pytest.raises(ValueError, match=match):
    layer.apply(params, x[:, 5:10], state)
  with checks.numerics():
    guarded = chex.chexify(
      jax.jit(lambda *given: layer.apply(*given)), async_check=False
    )
    guarded(params, x[:, 5:7], state)
    late = jax.tree.map(
      jnp.asarray, state._replace(position=state.position + 4)
    )
    with pytest.raises((ValueError, AssertionError), match="max_length is 8"):
      guarded(params, x[:, 5:7], late)


def test_positions_are_int32_in_every_precision():
  """A state that is returned is like the zero state, also beside int64."""
  with jax.enable_x64(True):
    layer = SoftmaxAttention(
      8, heads=2, dtype=jnp.float64, param_dtype=jnp.float64
    )
    x = jax.ShapeDtypeStruct((1, 3, 8), np.float64)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    _, state = jax.eval_shape(layer.apply, params, x)
    assert state.position.dtype == np.int32


def test_a_model_names_the_field():
  model = LanguageModel(
    5, 8, 1, ("softmax_attention",), {"softmax_attention": {"max_length": 4}}
  )
  tokens = np.zeros((1, 5), np.int32)
  with pytest.raises(ValueError, match=f"{BOUND} 4, but .* 5 tokens"):
    jax.eval_shape(model.init, jax.random.key(0), tokens)


def test_an_exported_program_of_any_length_is_never_a_window():
  layer = SoftmaxAttention(width=8, heads=2, max_length=8)
  x = np.random.default_rng(0).normal(size=(1, 11, 8)).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x[:, :8])
  (length,) = export.symbolic_shape("l")
  shape = jax.ShapeDtypeStruct((1, length, 8), np.float32)
  program = export.export(jax.jit(lambda x: layer.apply(params, x)[0]))(shape)
  wanted = jax.jit(layer.apply)(params, x[:, :8])[0]
  np.testing.assert_allclose(program.call(x[:, :8]), wanted, 1e-5, 1e-6)
  y = np.asarray(program.call(x))
  np.testing.assert_allclose(y[:, :8], wanted, 1e-5, 1e-6)
  assert np.isnan(y[:, 8:]).all()
