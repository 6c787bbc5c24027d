"""Each family on tiny models: a folder is saved and loaded, byte by byte."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxmodels import interop
from jaxmodels.interop.checkpoint import difference
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import family_of
from jaxmodels.mixers import RWKV7, contract
from jaxmodels.mixers.registry import is_pair
from jaxmodels.models import count_parameters
from tests.interop.families import PUBLISHED, TINY

# Fields of a model that are repeated to its depth.
REPEATED = ("mixers", "mlp", "layout", "skip_scale", "residual_scale")


# Families of which one model runs by default: a mixer alone, a hybrid, experts,
# values that pass from layer to layer, shared weights, fused tensors.
DEFAULT = {
  "gla",
  "granitemoehybrid",
  "mamba2",
  "nemotron_h",
  "qwen3_next",
  "recurrent_gemma",
  "rwkv7",
  "zamba2",
}


def named(cases):
  """Cases with their family as the id; the others than `DEFAULT` are slow."""
  left, params = set(DEFAULT), []
  for i, case in enumerate(cases):
    marks = () if case[0] in left else pytest.mark.slow
    params.append(pytest.param(*case, marks=marks, id=f"{case[0]}-{i}"))
    left.discard(case[0])
  return params


def drawn(model):
  """Random variables in the shapes of a model, without compiling its init."""
  tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  rng = np.random.default_rng(0)

  def draw(x):
    return jnp.asarray(rng.normal(size=x.shape), x.dtype)

  return {"params": jax.tree.map(draw, shapes)}


def counted(model):
  """The number of parameters; of equal layers only one is traced."""
  blocks = model.blocks()
  modules = [x.module for b in blocks for x in (b.mixer, b.mlp) if x]
  if any(contract.asks_for(m) & {"layer", "depth"} for m in modules):
    # Equal layers may differ. Only RWKV-7 has fewer parameters in its first
    # layer if layers are not scanned.
    scan = len({id(block) for block in blocks}) < model.depth
    scan = scan and not any(isinstance(m, RWKV7) for m in modules)
    return count_parameters(model.copy(scan_layers=scan, parent=None))
  first = [blocks.index(block) for block in blocks]
  chosen = sorted(set(first))

  def entries(value):
    if not isinstance(value, tuple) or is_pair(value):
      return value
    return tuple(value[i % len(value)] for i in chosen)

  small = model.copy(
    depth=len(chosen),
    **{name: entries(getattr(model, name)) for name in REPEATED},
    parent=None,
  )
  tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
  params = jax.eval_shape(small.init, jax.random.key(0), tokens)["params"]
  layers = [params["backbone"].pop(f"layer_{i}") for i in range(len(chosen))]
  return size(params) + sum(size(layers[chosen.index(i)]) for i in first)


def size(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("name", "values"), named(TINY))
def test_what_is_saved_is_loaded(name, values, tmp_path):
  config = Config(values)
  family = family_of(config)
  assert family.name == name
  model = family.read(config)
  config.check_all_read()
  variables = drawn(model)
  interop.save(tmp_path, model, variables, family=name)
  again, loaded = interop.load(tmp_path)
  assert difference(model, again) is None
  ours = traverse_util.flatten_dict(variables)
  theirs = traverse_util.flatten_dict(loaded)
  assert ours.keys() == theirs.keys()
  for path, value in ours.items():
    assert value.dtype == theirs[path].dtype
    np.testing.assert_array_equal(value, theirs[path])


@pytest.mark.parametrize(("name", "values", "count"), named(PUBLISHED))
def test_a_published_size_has_its_number_of_parameters(name, values, count):
  config = Config(values)
  family = family_of(config)
  assert family.name == name
  assert counted(family.read(config)) == count
