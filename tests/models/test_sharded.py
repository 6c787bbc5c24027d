"""Models with sharded sequences equal models with whole sequences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.layers.rotary import advance_positions
from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel
from jaxmodels.testing import relative_error, tolerance

BATCH, LENGTH, VOCAB = 3, 32, 11
ALONG, WHOLE = PartitionSpec(None, "s"), PartitionSpec()
# One document; a start in the first shard only; starts at edges and inside.
STARTS = ([], [5], [8, 9, 16, 30])
IDS = np.stack([np.cumsum(np.isin(np.arange(LENGTH), row)) for row in STARTS])
OPTIONS = {
  "gla": {"heads": 2, "gate_rank": 3},
  "delta_net": {"heads": 2},
  "gated_deltanet": {"heads": 2},
  "kda": {"heads": 2, "gate_rank": 3},
  "mamba2": {"head_width": 8, "state_width": 4},
  "s5": {"state_width": 8},
  "softmax_attention": {"heads": 2, "max_length": 2 * LENGTH},
  "sliding_attention": {"heads": 2, "window": 5},
}


def over(mesh_size, function, in_specs, out_specs):
  mesh = jax.make_mesh((mesh_size,), ("s",), axis_types=(AxisType.Auto,))
  return jax.jit(
    jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
  )


@pytest.mark.parametrize(
  ("mixers", "fields"),
  [
    (("gla", "softmax_attention"), {"remat": "full"}),
    pytest.param(("kda", "s5", "delta_net"), {}, marks=pytest.mark.slow),
    pytest.param(
      ("gated_deltanet", "mamba2", "sliding_attention"),
      # After six layers the rounding error of float32 is 3e-5 in either run.
      {
        "scan_layers": True,
        "depth": 6,
        "dtype": jnp.float64,
        "param_dtype": jnp.float64,
      },
      marks=pytest.mark.slow,
    ),
  ],
)
def test_values_states_and_gradients_equal_those_of_whole_sequences(
  mixers, fields
):
  dtype = fields.get("dtype", jnp.float32)
  with jax.enable_x64(dtype == jnp.float64):
    compare_with_the_whole(mixers, fields, dtype)


def compare_with_the_whole(mixers, fields, dtype):
  fields = {"depth": len(mixers), "mlp": "none", **fields}
  allowed = tolerance(dtype)
  model, cut = (
    LanguageModel(
      VOCAB, 16, mixers=mixers, mixer_options=OPTIONS, axis_name=axis, **fields
    )
    for axis in (None, "s")
  )
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, VOCAB, (BATCH, 2 * LENGTH)).astype(np.int32)
  first, tokens = np.split(tokens, 2, 1)
  weights = rng.normal(size=(BATCH, LENGTH, VOCAB)).astype(dtype)
  params = jax.jit(model.init)(jax.random.key(0), tokens)
  params = jax.tree.map(
    lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), params
  )
  # A second call continues from the state, which belongs to segment 0.
  _, state = jax.jit(model.apply)(params, first)

  def run(model, params, state, tokens, ids, weights):
    def loss(params, state):
      logits, after = model.apply(params, tokens, state, segment_ids=ids)
      total = jnp.sum(logits * weights)
      if model.axis_name is not None:
        total = jax.lax.psum(total, model.axis_name)
      return total, (logits, after)

    return jax.grad(loss, has_aux=True)(params, state)

  given = (params, state, tokens, IDS.astype(np.int32), weights)
  slopes, (logits, after) = over(
    4,
    lambda *args: run(cut, *args),
    (WHOLE, WHOLE, ALONG, ALONG, ALONG),
    (WHOLE, (ALONG, WHOLE)),
  )(*given)
  expected = jax.jit(lambda *args: run(model, *args))(*given)
  assert relative_error(logits, expected[1][0]) < allowed
  for got, wanted in ((slopes, expected[0]), (after, expected[1][1])):
    for (path, a), b in zip(
      jax.tree_util.tree_leaves_with_path(got),
      jax.tree.leaves(wanted),
      strict=True,
    ):
      name = jax.tree_util.keystr(path)
      if jnp.issubdtype(a.dtype, jnp.inexact):
        assert relative_error(a, b) < allowed, name
      else:
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_positions_count_on_across_shards(devices):
  entering = np.array([7, 0, 3], np.int32)
  for ids in (None, IDS.astype(np.int32)):

    def positions(entering, ids):
      length = LENGTH // devices
      return advance_positions(entering, length, ids, "s")

    got = over(devices, positions, (WHOLE, ALONG), (ALONG, WHOLE))
    for a, b in zip(
      got(entering, ids), advance_positions(entering, LENGTH, ids), strict=True
    ):
      np.testing.assert_array_equal(a, b)


def test_the_error_names_a_mixer_whose_sequence_cannot_be_sharded(monkeypatch):
  class Uncut(nn.Module):
    width: int
    output_scale: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    def __call__(self, x, state=None, *, segment_ids=None):
      return x, state

  monkeypatch.setitem(MIXERS, "uncut", Uncut)
  tokens = jnp.zeros((1, 4), jnp.int32)
  model = LanguageModel(VOCAB, 4, 1, ("uncut",))
  model.init(jax.random.key(0), tokens)
  with pytest.raises(ValueError, match="'uncut' does not support sharded"):
    model.clone(axis_name="s").init(jax.random.key(0), tokens)


def test_axis_name_is_refused_as_an_option_of_a_mixer():
  model = LanguageModel(VOCAB, 8, 1, ("gla",), {"gla": {"axis_name": "s"}})
  with pytest.raises(ValueError, match="'axis_name' is set by the model"):
    model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
