"""Language models on arrays that are sharded over Explicit mesh axes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.models import LanguageModel
from jaxmodels.testing import relative_error

BATCH, LENGTH, VOCAB, WIDTH = 2, 4, 6, 8
IDS = np.array([[0, 1, 1, 0], [0, 0, 0, -1]], np.int32)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, IDS.shape, np.int32)


def hybrid(scan_layers):
  return LanguageModel(
    VOCAB,
    WIDTH,
    depth=2,
    mixers=("gla", "sliding_attention"),
    mixer_options={
      "gla": {"heads": 2, "gate_rank": 2, "method": "recurrent"},
      "sliding_attention": {"heads": 2, "window": 3},
    },
    scan_layers=scan_layers,
    remat="full",
    mlp_options={"hidden": 8},
  )


def place(mesh, tree, spec):
  """Shards every leaf by a spec, or by a function from the leaf to a spec."""

  def put(x):
    own = spec(x) if callable(spec) else spec
    return jax.device_put(x, NamedSharding(mesh, own))

  return jax.tree.map(put, tree)


def results(model):
  def loss(params, tokens, ids, state):
    logits, state = model.apply(params, tokens, state, segment_ids=ids)
    return jnp.sum(jnp.sin(logits)), (logits, state)

  return jax.jit(jax.grad(loss, has_aux=True))


def largest_axis(x):
  """The spec that shards a large parameter along its largest axis."""
  axis = int(np.argmax(x.shape))
  large = x.size >= 64 and x.shape[axis] % 2 == 0
  return P(*[None] * axis, "d") if large else P()


def types(tree):
  return [jax.typeof(x) for x in jax.tree.leaves(tree)]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("scan_layers", "params_spec", "context"),
  [
    pytest.param(False, P(), False, marks=pytest.mark.slow),
    (True, P(), True),
    pytest.param(False, largest_axis, True, marks=pytest.mark.slow),
    pytest.param(True, largest_axis, False, marks=pytest.mark.slow),
  ],
)
def test_a_model_keeps_the_sharding_of_the_batch(
  scan_layers, params_spec, context
):
  model = hybrid(scan_layers)
  params = jax.jit(model.init)(jax.random.key(0), TOKENS)
  zero = model.init_state(BATCH)
  wanted = results(model)(params, TOKENS, IDS, zero)
  mesh = jax.make_mesh((2,), ("d",))  # Explicit axes, JAX's default.
  on_mesh = place(mesh, params, params_spec)
  tokens, ids = place(mesh, (TOKENS, IDS), P("d"))
  batch = (None, "d") if scan_layers else ("d",)
  state = place(mesh, zero, P(*batch))
  with jax.set_mesh(mesh) if context else contextlib.nullcontext():
    slopes, (logits, last) = results(model)(on_mesh, tokens, ids, state)
  assert types(slopes) == types(on_mesh)
  assert jax.typeof(logits).sharding.spec == P("d", None, None)
  for leaf in jax.tree.leaves(last):
    assert jax.typeof(leaf).sharding.spec[: len(batch)] == batch
  leaves = zip(
    jax.tree.leaves((slopes, (logits, last))),
    jax.tree.leaves(wanted),
    strict=True,
  )
  for a, b in leaves:
    assert relative_error(np.asarray(a), np.asarray(b)) < 2e-5


def test_decoding_in_a_loop_keeps_the_sharding_of_the_state():
  model = hybrid(scan_layers=False)
  params = jax.jit(model.init)(jax.random.key(0), TOKENS)

  @jax.jit
  def decode(params, tokens, state):
    def step(state, token):
      logits, state = model.apply(params, token[:, None], state)
      return state, logits[:, 0]

    return jax.lax.scan(step, state, tokens.T)

  zero = model.init_state(BATCH)
  _, wanted = decode(params, TOKENS, zero)
  mesh = jax.make_mesh((2,), ("d",))
  tokens, state = place(mesh, (TOKENS, zero), P("d"))
  last, logits = decode(place(mesh, params, P()), tokens, state)
  assert types(last) == types(state)
  assert relative_error(np.asarray(logits), np.asarray(wanted)) < 2e-5
