"""Each family on tiny models: a folder is saved and loaded, byte by byte."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxmodels import interop
from jaxmodels.interop.checkpoint import difference
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import family_of
from jaxmodels.models import count_parameters
from tests.interop.families import PUBLISHED, TINY


def named(cases):
  """Cases with the name of their family as the id of the test."""
  return [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in cases]


def drawn(model):
  """Random variables in the shapes of a model, without compiling its init."""
  tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  rng = np.random.default_rng(0)

  def draw(x):
    return jnp.asarray(rng.normal(size=x.shape), x.dtype)

  return {"params": jax.tree.map(draw, shapes)}


@pytest.mark.parametrize(("name", "values"), named(enumerate(TINY)))
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


@pytest.mark.parametrize(
  ("name", "values", "count"), named(enumerate(PUBLISHED))
)
def test_a_published_size_has_its_number_of_parameters(name, values, count):
  config = Config(values)
  family = family_of(config)
  assert family.name == name
  model = family.read(config)
  # Scanned layers have the same parameters, and a round of them is traced. Only
  # RWKV-7 has fewer parameters in its first layer if layers are not scanned.
  period = len({id(block) for block in model.blocks()})
  scan = period < model.depth and name != "rwkv7"
  model = model.copy(scan_layers=scan, parent=None)
  assert count_parameters(model) == count
