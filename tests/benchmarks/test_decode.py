"""The table of generation, and weights of transformers as ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import decode, decode_peers
from jaxmodels.testing.examples import MIXERS


def test_the_page_has_the_bytes_of_the_states():
  """One row per mixer that decodes; `--write` adds those that are new."""
  page = decode._PAGE.read_text()
  lines = decode._MARK.search(page)[0].splitlines()[3:-1]
  cells = [line.split("|") for line in lines]
  sizes = {row[1].strip(" `"): int(row[2].replace(",", "")) for row in cells}
  causal = {record.mixer for record in MIXERS.values() if record.causal}
  assert set(sizes) <= causal
  for mixer in ("gla", "rg_lru"):
    network = decode.model(mixer, decode._TABLE, 1024)
    state = jax.eval_shape(lambda network=network: network.init_state(1))
    leaves = jax.tree.leaves(state)
    assert sizes[mixer] == sum(x.size * x.dtype.itemsize for x in leaves)


def test_the_table_stands_between_its_marks():
  page = "a\n<!-- decode -->\nold\n<!-- /decode -->\nb\n"
  wanted = "a\n<!-- decode -->\nnew\n<!-- /decode -->\nb\n"
  assert decode.update(page, "new\n") == wanted
  with pytest.raises(ValueError, match="no marks <!-- decode -->"):
    decode.update("a", "new\n")


@pytest.mark.parametrize("name", decode_peers.SHAPES)
def test_weights_of_transformers_have_the_shapes_of_ours(name):
  """Their names and shapes, written out from their documentation."""
  wide = {"mamba": 2 * 1536, "mamba2": 2 * 1536 + 2 * 128 + 24}[name]
  convolved = {"mamba": 1536, "mamba2": 1536 + 2 * 128}[name]
  own = {
    "in_proj.weight": (wide, 768),
    "conv1d.weight": (convolved, 1, 4),
    "conv1d.bias": (convolved,),
    "out_proj.weight": (768, 1536),
  }
  if name == "mamba":
    own |= {"A_log": (1536, 16), "D": (1536,), "dt_proj.bias": (1536,)}
    own |= {"x_proj.weight": (48 + 32, 1536), "dt_proj.weight": (1536, 48)}
  else:
    own |= {"A_log": (24,), "D": (24,), "dt_bias": (24,)}
    own |= {"norm.weight": (1536,)}
  layer = {"mamba": decode_peers._mamba, "mamba2": decode_peers._mamba2}[name]
  found = layer({key: np.zeros(shape) for key, shape in own.items()})
  network = decode_peers.SHAPES[name].clone(depth=1)
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
  )
  wanted = shapes["params"]["backbone"]["layer_0"]["mixer"]
  assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, wanted)
