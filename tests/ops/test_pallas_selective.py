"""The kernel of the selective scan: its blocks, its devices, its choice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.ops.kernels import selective
from jaxmodels.testing import examples
from jaxmodels.testing.examples import OPS
from tests.ops.test_pallas import check_auto, equal, value_and_gradients

LENGTH = 16


def drawn(channels, batch=2, length=LENGTH, small=3):
  sizes = examples.Sizes(batch=batch, heads=1, width=channels, small=small)
  arguments = OPS["selective_scan"].arguments(length, sizes=sizes)
  return {n: jnp.asarray(x, jnp.float32) for n, x in arguments.items()}


def results(function, arguments):
  def call(arguments):
    return function(**arguments)

  return jax.jit(functools.partial(value_and_gradients, call))((arguments,))


KERNEL = functools.partial(ops.selective_scan, method="pallas", chunk_size=8)


# Two tiles of 128 channels and a part of one; a block of 12 tiles, which fill
# one register and a half; three blocks of eight tiles, the last with two.
@pytest.mark.slow
@pytest.mark.parametrize("channels", [200, 12 * 128, 17 * 128 + 100])
def test_channels_in_blocks(channels):
  arguments = drawn(channels, batch=1)
  equal(
    results(KERNEL, arguments),
    results(reference.selective_scan, arguments),
  )


def test_blocks_take_what_fits():
  assert selective.tokens_per_block(64, 16, 8) == 64
  assert selective.tokens_per_block(64, 32, 8) == 32
  # 12 tiles fill a register and a half.
  assert selective.tiles_per_block(12 * 128, 16) == 12
  assert selective.tiles_per_block(12 * 128, 64) == 8
  assert selective.tiles_per_block(20 * 128, 16) == 8
  with pytest.raises(ValueError, match=r"N = 256, more than 15 MiB; use"):
    selective.tokens_per_block(64, 256, 8)


@pytest.mark.slow
def test_chunks_in_parts(monkeypatch):
  monkeypatch.setattr(selective, "LEAST", 2)
  monkeypatch.setattr(selective, "ROOM", selective._bytes(4, 3, 1))
  assert selective.tokens_per_block(8, 3, 1) == 4
  arguments = drawn(16)
  equal(
    results(KERNEL, arguments),
    results(reference.selective_scan, arguments),
  )


@pytest.mark.slow
def test_without_skip_or_state():
  arguments = drawn(16)
  del arguments["D"], arguments["initial_state"]
  ids = np.repeat([0, 1, -1], [5, 6, 5])[None].repeat(2, 0)
  equal(
    *(
      results(functools.partial(f, segment_ids=ids), arguments)
      for f in (KERNEL, reference.selective_scan)
    )
  )


# Two rows on two devices, where four devices share the channels or none do, and
# one row.
@pytest.mark.parametrize(
  ("batch", "channels"),
  [
    (2, 4 * 128),
    pytest.param(2, 8, marks=pytest.mark.slow),
    pytest.param(1, 256, marks=pytest.mark.slow),
  ],
)
def test_devices_share_rows_and_channels(batch, channels):
  arguments = drawn(channels, batch, 8, small=1)
  mesh = jax.make_mesh((2, 4), ("data", "other"), (AxisType.Auto,) * 2)
  with jax.set_mesh(mesh):
    found = results(KERNEL, arguments)
  equal(found, results(reference.selective_scan, arguments))


def test_auto_takes_the_kernel_where_it_can_be_split(monkeypatch):
  many = {n: jnp.zeros((2, LENGTH, 256)) for n in "BC"}
  many |= {"A": jnp.zeros((16, 256))}
  check_auto(monkeypatch, ops.selective_scan, drawn(16), many)
