"""A bound of the context makes caches small, and changes nothing else."""

import jax
import numpy as np
import pytest

from jaxmodels import interop
from jaxmodels.interop.config import Config
from jaxmodels.interop.context import with_max_length
from jaxmodels.interop.families import family_of
from tests.interop.families import TINY, lfm2_moe
from tests.interop.test_families import drawn


def cached(model):
  """The rooms of the caches of a model, without those of windows."""
  state = jax.eval_shape(lambda: model.init_state(1))
  flat = jax.tree_util.tree_flatten_with_path(state)[0]
  return {
    leaf.shape[1] for path, leaf in flat if "live" in jax.tree_util.keystr(path)
  }


# Attention alone, beside a mixer, in a shared block, and with latents.
FAST = ("falcon_h1", "kimi_linear", "lfm2", "zamba2")
CASES = [
  pytest.param(
    name,
    values,
    id=f"{name}-{i}",
    marks=() if name in FAST else pytest.mark.slow,
  )
  for i, (name, values) in enumerate(TINY)
]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_every_family_has_small_caches(name, values):
  model = family_of(config := Config(values)).read(config)
  rooms, bounded = cached(model), cached(with_max_length(model, 3))
  assert bounded <= {2, *(n for n in rooms if n < 20)}
  assert (2 in bounded) == any(n >= 20 for n in rooms)


def test_a_model_is_loaded_with_a_short_context(tmp_path):
  model = family_of(config := Config(lfm2_moe.TINY[0])).read(config)
  interop.save(tmp_path, model, drawn(model))
  _, variables = interop.load(tmp_path)
  short, same = interop.load(tmp_path, max_length=8)
  assert cached(short) == {7}
  assert jax.tree.all(jax.tree.map(np.array_equal, variables, same))
  jax.eval_shape(short.apply, variables, np.arange(8)[None])
  with pytest.raises(ValueError, match=r"max_length is 8, .* 9 tokens"):
    jax.eval_shape(short.apply, variables, np.arange(9)[None])
  with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
    interop.load(tmp_path, max_length=0)
