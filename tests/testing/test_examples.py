"""Records say of an op what the op itself says."""

import inspect

import pytest

from jaxmodels.testing.examples import OPS


@pytest.mark.parametrize("name", OPS)
def test_methods_are_those_that_the_op_names(name):
  record = OPS[name]
  if not record.methods:
    assert "method" not in inspect.signature(record.op).parameters
    return
  with pytest.raises(ValueError, match="method must be one of") as error:
    record.op(**record.arguments(2), **record.options, method="fast")
  named = str(error.value).split("one of ")[1].split(", got")[0]
  # Messages leave out "pallas", which few ops have and only for TPU.
  assert set(named.split(", ")) == set(record.methods) - {"pallas"}
