"""Mixers on arrays whose types carry their sharding: Explicit axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.layers import MLPS
from jaxmodels.mixers import GLA, MIXERS, Mamba2, SlidingAttention
from jaxmodels.testing import relative_error
from tests.mixers import slow_but, slow_in_matrix

BATCH, LENGTH, WIDTH = 2, 4, 8
# Token by token, which compiles fastest: the ops have tests of their forms.
RECURRENT = {"method": "recurrent"}
OPTIONS = {
  "gla": {"heads": 2, "gate_rank": 2, **RECURRENT},
  "delta_net": {"heads": 2, **RECURRENT},
  "gated_deltanet": {"heads": 2, **RECURRENT},
  "kda": {"heads": 2, "gate_rank": 2, **RECURRENT},
  "gated_deltanet2": {"heads": 2, "gate_rank": 2, **RECURRENT},
  "delta_product": {"heads": 2, **RECURRENT},
  "bilinear_rnn": {"block_width": 2, **RECURRENT},
  "mixture_of_memories": {"heads": 2, "memories": 2, **RECURRENT},
  "log_linear": {"heads": 2, "levels": 2, **RECURRENT},
  "mesa": {"heads": 2, "steps": 4, **RECURRENT},
  "ttt_linear": {"heads": 2, **RECURRENT},
  "mamba": {"state_width": 4, **RECURRENT},
  "mamba2": {"head_width": 8, "state_width": 4, **RECURRENT},
  "mamba3": {"head_width": 8, "state_width": 4, **RECURRENT},
  "mlstm": {"heads": 2, **RECURRENT},
  "mlstm_block": {"heads": 2, **RECURRENT},
  "linear_attention": {"heads": 2, **RECURRENT},
  "based": {"heads": 2, "key_width": 2, **RECURRENT},
  "transnormer": {"heads": 2, **RECURRENT},
  "diag_attention": {"heads": 2, "block_size": 3},
  "lightning": {"heads": 2, **RECURRENT},
  "gated_slot": {"heads": 2, "slots": 3, **RECURRENT},
  "fsmn": {"kernel_width": 2},
  "neighborhood_attention": {"heads": 2, "kernel_width": 3},
  "halo_attention": {"heads": 2, "block_size": 2, "halo": 1, "columns": 2},
  "mixture_of_heads": {"heads": 2, "active_heads": 1, "max_length": 4},
  "latent_attention": {"heads": 2, "rank": 6, "max_length": 4},
  "hopfield": {"heads": 2, "window": 3},
  "galerkin": {"heads": 2, **RECURRENT},
  "soft": {"heads": 2, "landmarks": 2, "max_segments": 3},
  "lion": {"heads": 2, **RECURRENT},
  "bidirectional": {"mixer": GLA(WIDTH, heads=2, gate_rank=2), **RECURRENT},
  "cross_scan": {
    "mixer": GLA(WIDTH, heads=2, gate_rank=2),
    "columns": 2,
    **RECURRENT,
  },
  "selective_scan_2d": {"columns": 2, "state_width": 4, **RECURRENT},
  "vig": {"columns": 2, "gate_rank": 2, **RECURRENT},
  "parallel": {
    "mixers": (
      Mamba2(WIDTH, head_width=8, state_width=4, **RECURRENT),
      SlidingAttention(WIDTH, heads=2, window=3),
    )
  },
  "polyline_attention": {"heads": 2, "columns": 2},
  "retnet": {"heads": 2, **RECURRENT},
  "rwkv4": {**RECURRENT},
  "rwkv6": {"head_width": 4, "mix_rank": 2, "decay_rank": 2, **RECURRENT},
  "rwkv7": {"head_width": 4, **RECURRENT},
  "s5": {"state_width": 8},
  "lru": {"state_width": 8},
  "linoss": {"oscillators": 4, **RECURRENT},
  "lssl": {"state_width": 2, **RECURRENT},
  "s4": {"state_width": 4, **RECURRENT},
  "s4d": {"state_width": 4, **RECURRENT},
  "rg_lru": {"heads": 2},
  "softmax_attention": {"heads": 2, "max_length": 4},
  "sliding_attention": {"heads": 2, "window": 3},
}
# Their gates read a state that is not cut over heads.
NO_HEADS = ("s5", "lru", "linoss", "lssl", "s4", "s4d")
IDS = np.array([[0, 1, 1, 0], [0, 0, 0, -1]], np.int32)
# Projections to heads; `output` reads heads.
TO_HEADS = ("query", "key", "value", "gate", "output_gate", "input")


def place(mesh, tree, spec):
  """Every leaf with the spec, or with what a function of its path gives."""

  def put(path, x):
    own = spec(path, x) if callable(spec) else spec
    return jax.device_put(x, NamedSharding(mesh, own))

  return jax.tree_util.tree_map_with_path(put, tree)


def by_heads(path, x):
  """Kernels that write or read heads are cut over heads, others are whole."""
  names = [getattr(key, "key", None) for key in path]
  if names[-1] != "kernel" or x.ndim != 2 or "convolution" in names[-2]:
    return P()
  if names[-2] == "output":
    return P("h")
  return P(None, "h") if names[-2] in TO_HEADS else P()


def results(module):
  """The outputs, and the gradients of parameters, inputs and state."""

  def evaluate(params, x, state, ids):
    at, structure = jax.tree.flatten(state)
    kept = [leaf.dtype in (jnp.float32, jnp.complex64) for leaf in at]

    def loss(params, x, given):
      given = iter(given)
      full = [
        next(given) if floating else leaf
        for floating, leaf in zip(kept, at, strict=True)
      ]
      y, last = module.apply(
        params, x, jax.tree.unflatten(structure, full), segment_ids=ids
      )
      return jnp.sum(jnp.sin(y)), (y, last)

    given = [leaf for floating, leaf in zip(kept, at, strict=True) if floating]
    return jax.grad(loss, (0, 1, 2), has_aux=True)(params, x, given)

  return jax.jit(evaluate)


def draw(module):
  """Inputs and parameters; as they start would take a program more."""
  rng = np.random.default_rng(0)

  def normal(shape):
    return (rng.normal(size=shape) / 2).astype(np.float32)

  x = normal((BATCH, LENGTH, WIDTH))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  return x, jax.tree.map(lambda leaf: normal(leaf.shape), shapes)


def assert_close(got, wanted):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert relative_error(np.asarray(a), np.asarray(b)) < 2e-5


def types(tree):
  """Of arrays; those of a traced program are types already."""
  return [
    jax.typeof(x) if isinstance(x, jax.Array) else x
    for x in jax.tree.leaves(tree)
  ]


@pytest.fixture(scope="module")
def mesh():
  return jax.make_mesh((2, 2), ("d", "h"))  # Explicit, JAX's default.


def on_one_device_and_on(mesh, name):
  """A mixer, and its arguments, whole and cut over batch and heads."""
  module = MIXERS[name](width=WIDTH, **OPTIONS.get(name, {}))
  x, params = draw(module)
  whole = params, x, module.init_state(BATCH), IDS
  cut = place(mesh, params, P() if name in NO_HEADS else by_heads)
  return module, whole, (cut, *(place(mesh, t, P("d")) for t in whole[1:]))


def assert_types(results, given):
  """Gradients and outputs are cut like what they belong to."""
  slopes, (y, last) = results
  assert types(slopes[:2]) == types(given[:2])
  assert types(y) == types(given[1])
  for leaf in types(last):
    assert leaf.sharding.spec[0] == "d"


@pytest.mark.parametrize("name", slow_in_matrix(MIXERS))
def test_a_mixer_keeps_how_batch_and_heads_are_cut(mesh, name):
  """Types carry it, so tracing shows it, and finds what cannot be cut."""
  module, _, given = on_one_device_and_on(mesh, name)
  traced = results(module).trace(*given)
  found = jax.tree.unflatten(
    jax.tree.structure(traced.out_info), traced.jaxpr.out_avals
  )
  assert_types(found, given)


@pytest.mark.parametrize("name", slow_but(MIXERS))
def test_cut_over_batch_and_heads_the_results_are_the_same(mesh, name):
  module, whole, given = on_one_device_and_on(mesh, name)
  got = results(module)(*given)
  assert_types(got, given)
  assert_close(got, results(module)(*whole))


@pytest.mark.parametrize("name", [name for name in MLPS if name != "none"])
def test_a_channel_mixer_keeps_how_the_batch_is_cut(mesh, name):
  module = MLPS[name](width=WIDTH)
  x, params = draw(module)
  on_mesh = place(mesh, params, by_heads), place(mesh, x, P("d"))
  y, _ = jax.jit(module.apply)(*on_mesh)
  assert jax.typeof(y) == jax.typeof(on_mesh[1])
  assert_close(y, jax.jit(module.apply)(params, x)[0])
