"""The precision of the products in the inverse, by platform."""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend import core as jax_core

from jaxmodels.ops.engine import triangular
from jaxmodels.ops.engine.platform import trace_for


def products(jaxpr):
  """The precisions of all matrix products in a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation.params["precision"]
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from products(inner)


@pytest.mark.parametrize(
  ("platform", "asked", "wanted"),
  [
    ("tpu", None, lax.Precision.HIGH),
    ("tpu", "highest", lax.Precision.HIGHEST),
    ("tpu", "float32", lax.Precision.HIGHEST),
    # A GPU takes HIGH as TF32.
    ("gpu", None, lax.Precision.HIGHEST),
    ("cpu", None, lax.Precision.HIGHEST),
  ],
)
def test_the_ladder_is_more_precise_than_the_default(platform, asked, wanted):
  precision = contextlib.nullcontext()
  if asked is not None:
    precision = jax.default_matmul_precision(asked)
  with trace_for(platform), precision:
    program = jax.make_jaxpr(lambda x: triangular._invert(x))(jnp.eye(16))
  found = set(products(program.jaxpr))
  assert found == {(wanted, wanted)}
