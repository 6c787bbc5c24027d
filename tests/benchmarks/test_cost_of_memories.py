"""The flops that the docstrings of log-linear, Mesa and TTT state."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxmodels import ops
from jaxmodels.analysis import flops
from tests.benchmarks.test_cost import agree

LENGTH, K, C = 256, 64, 64


def shape(*axes):
  return jax.ShapeDtypeStruct((1, LENGTH, 1, *axes), jnp.float32)


HEADS = {"q": shape(K), "k": shape(K), "v": shape(K), "log_decay": shape()}


def counted(op, given, **options):
  op = functools.partial(op, method="chunked", chunk_size=C, **options)
  return flops.count(lambda given: op(**given), given).total / LENGTH


@pytest.mark.parametrize("levels", [4, 14])
@pytest.mark.parametrize("beta", [False, True])
def test_log_linear_attention(levels, beta):
  stated = 2 * levels * (C + 2 * K**2) + 2 * C**2
  given, base = HEADS, ops.linear_attention
  if beta:
    stated += 2 * levels * K**3 / C + 4 * C**2
    given, base = HEADS | {"beta": shape()}, ops.delta_rule
  scale = {"scale": shape(levels + 1)}
  more = counted(ops.log_linear_attention, given | scale) - counted(base, given)
  assert agree(stated, more)


def test_mesa():
  given = HEADS | {"beta": shape()}
  one, many = (counted(ops.mesa, given, steps=steps) for steps in (1, 11))
  assert agree(4 * C * K + 2 * K**2, (many - one) / 10)
  wider = HEADS | {"v": shape(2 * K)}
  base = counted(ops.linear_attention, wider)
  assert agree(base + 4 * C * K + 2 * K**2, one)


@pytest.mark.parametrize("state", [False, True])
def test_ttt(state):
  given = {name: x for name, x in HEADS.items() if name != "log_decay"}
  matrix = jax.ShapeDtypeStruct((1, K, K), jnp.float32)
  given |= {"rate": shape(), "weight": matrix}
  stated = 2 * C * 2 * K + 8 * K**2
  if state:
    stated *= 2
    sizes = (1, 1, K, K), (1, 1, K, K), (1, 1)
    parts = (jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes)
    given["initial_state"] = ops.TTT(*parts)
  assert agree(stated, counted(ops.ttt_linear, given, mini_batch=C))
