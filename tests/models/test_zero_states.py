"""Zero states have one buffer per leaf, so that they can be donated."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel
from tests.mixers import slow_in_matrix

SMALL = {"head_width": 8, "state_width": 4}
OPTIONS = {"mamba2": SMALL, "mamba3": SMALL}
OPTIONS["softmax_attention"] = {"max_length": 6}


def buffers(state):
  return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]


def assert_distinct(state):
  found = [b for b in buffers(state) if b]
  assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", slow_in_matrix(MIXERS))
def test_no_two_leaves_of_a_zero_state_share_a_buffer(name):
  layer = MIXERS[name](width=16, **OPTIONS.get(name, {}))
  assert_distinct(layer.init_state(2))
  assert_distinct(jax.jit(layer.init_state, static_argnums=0)(2))
  for scan_layers in (False, True):
    model = LanguageModel(5, 16, 2, (name,), OPTIONS, scan_layers=scan_layers)
    assert_distinct(model.init_state(2))


def test_a_zero_state_of_attention_can_be_donated():
  layer = MIXERS["sliding_attention"](width=8, window=4)
  x = np.ones((1, 1, 8), np.float32)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
  params = jax.tree.map(lambda p: np.ones(p.shape, p.dtype), shapes)
  step = jax.jit(layer.apply, donate_argnums=2)
  y, state = step(params, x, layer.init_state(1))
  again, _ = step(params, x, state)
  assert np.isfinite(y).all()
  assert np.isfinite(again).all()


class Lowest(nn.Module):
  """A running maximum from -inf; the state has the same array twice."""

  width: int
  output_scale: float
  dtype: jnp.dtype
  param_dtype: jnp.dtype

  def __call__(self, x, state=None, *, segment_ids=None):
    before, _ = self.init_state(x.shape[0]) if state is None else state
    y = jnp.maximum(jax.lax.cummax(x, axis=1), before[:, None])
    return y, (y[:, -1], y[:, -1])

  def init_state(self, batch_size):
    lowest = jnp.full((batch_size, self.width), -jnp.inf)
    return lowest, lowest


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_mixer_may_have_an_initial_state_other_than_zero(
  monkeypatch, scan_layers
):
  monkeypatch.setitem(MIXERS, "lowest", Lowest)
  model = LanguageModel(
    5, 4, 2, ("lowest",), scan_layers=scan_layers, mlp="none"
  )
  state = model.init_state(2)
  assert_distinct(state)
  assert all((leaf == -jnp.inf).all() for leaf in jax.tree.leaves(state))
  # The state is donated, as one argument per leaf.
  jax.jit(lambda state: jax.tree.map(jnp.abs, state), donate_argnums=0)(state)
