"""Scans over layers and tables of lookups are found in models of any names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from tests.train.devices.test_mesh import small
from train.config import Mesh
from train.devices.mesh import make_mesh, shardings
from train.devices.parameter_use import layer_axes, looked_up
from train.parameters import path_of
from train.state import initial_state
from train.step import Learner

WIDTH, ROUNDS, WORDS = 8, 4, 12


class Floor(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    bias = self.param("push", nn.initializers.zeros, (WIDTH,))
    return x + nn.Dense(WIDTH, name="turn")(x) + bias[None, None], None


class Tower(nn.Module):
  """A scan over layers, a table and a readout, under names of its own."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    shape = (WORDS, WIDTH)
    words = self.param("words", nn.initializers.normal(), shape)
    out = self.param("answers", nn.initializers.normal(), shape)
    x = words.astype(jnp.float32)[x]
    floors = nn.scan(
      Floor,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=ROUNDS,
    )
    x, _ = floors(name="floors")(x, None)
    return jnp.einsum("bld,vd->blv", x, out), ()


def built(model):
  optimizer = optax.adam(1e-3)
  draw = initial_state(model, optimizer, 16)
  learner = Learner(
    model, optimizer, None, layers=layer_axes(draw, np.uint32(0))
  )
  return learner, jax.eval_shape(draw, np.uint32(0))


def test_a_model_of_any_names_is_sharded_like_ours():
  learner, state = built(Tower())
  assert learner.layers == {
    "floors/push": 1,
    "floors/turn/bias": 1,
    "floors/turn/kernel": 1,
  }
  mesh = make_mesh(Mesh(data=2, fsdp=4))
  placed = shardings(mesh, state, learner.layers)
  for tree in (placed.params, placed.opt_state[0].mu):
    assert jax.tree.map(lambda x: x.spec, tree) == {
      "words": PartitionSpec("fsdp", None),
      "answers": PartitionSpec("fsdp", None),
      "floors": {
        "push": PartitionSpec(),
        "turn": {
          "bias": PartitionSpec(),
          "kernel": PartitionSpec(None, "fsdp", None),
        },
      },
    }


@pytest.mark.parametrize(
  "scan_layers", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_only_tables_of_lookups_are_found(scan_layers):
  ours = small(scan_layers=scan_layers, tie_embeddings=False, remat="full")
  for model, table in ((ours, "embedding/table"), (Tower(), "words")):
    _, state = built(model)
    found = looked_up(
      lambda params, x, model=model: model.apply({"params": params}, x),
      state.params,
      jax.ShapeDtypeStruct((2, 16), np.int32),
    )
    leaves = jax.tree_util.tree_leaves_with_path(found)
    assert [path_of(keys) for keys, is_table in leaves if is_table] == [table]
