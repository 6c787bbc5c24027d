"""Models exported once for any batch size and length read and decode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel
from jaxmodels.testing import relative_error

VOCAB, WIDTH, LENGTH = 13, 16, 5
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(3, LENGTH), dtype="i4")
IDS = np.arange(LENGTH, dtype=np.int32)[None] // 3 * np.ones((3, 1), np.int32)


# Of images, whose rows and columns follow from the length.
GRIDS = ("cross_scan", "polyline_attention", "selective_scan_2d", "vig")


def build(*mixers, **fields):
  options = {
    "softmax_attention": {"max_length": 8},
    "sliding_attention": {"window": 4},
    "mamba2": {"head_width": 8},
    "mamba3": {"head_width": 8},
  }
  return LanguageModel(
    vocab_size=VOCAB,
    width=WIDTH,
    depth=len(mixers),
    mixers=mixers,
    mixer_options={name: options.get(name, {}) for name in mixers},
    **fields,
  )


def loaded(function, *shapes):
  saved = export.export(jax.jit(function))(*shapes).serialize()
  return jax.jit(export.deserialize(saved).call)


def integers(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def assert_equal(got, wanted):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert relative_error(a, b) < 2e-5


def check(model, read_ids):
  """Reads a prompt and decodes a token, with batches of one and three."""
  batch, length = export.symbolic_shape("b, l")
  params = jax.jit(model.init)(jax.random.key(0), TOKENS[:, :1])
  state = jax.eval_shape(lambda: model.init_state(batch))

  def read(params, tokens, state, ids=None):
    return model.apply(params, tokens, state, segment_ids=ids)

  ids = (integers(batch, length),) if read_ids else ()
  reader = loaded(read, params, integers(batch, length), state, *ids)
  decoder = loaded(read, params, integers(batch, 1), state)
  direct = jax.jit(read)
  for rows in (1, 3):
    zero = model.init_state(rows)
    some = (IDS[:rows],) if read_ids else ()
    got = reader(params, TOKENS[:rows], zero, *some)
    assert_equal(got, direct(params, TOKENS[:rows], zero, *some))
    after = got[1]
    assert_equal(
      decoder(params, TOKENS[:rows, :1], after),
      direct(params, TOKENS[:rows, :1], after),
    )


@pytest.mark.slow
def test_an_exported_hybrid_reads_and_decodes_any_batch():
  check(build("gla", "s5", "sliding_attention"), read_ids=False)


@pytest.mark.parametrize("name", GRIDS)
def test_a_mixer_of_grids_needs_the_length(name):
  model = build(name)
  params = jax.jit(model.init)(jax.random.key(0), TOKENS[:, :1])
  batch, length = export.symbolic_shape("b, l")
  words = "a grid needs the number L of tokens, .* symbolic length l; export"
  with pytest.raises(ValueError, match=words):
    export.export(jax.jit(model.apply))(params, integers(batch, length))


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("name", [name for name in MIXERS if name not in GRIDS])
def test_every_exported_mixer_reads_packed_prompts_and_decodes(
  name, scan_layers
):
  check(build(name, scan_layers=scan_layers), read_ids=True)
