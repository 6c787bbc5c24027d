"""Every form of every op against its definition: values and gradients."""

import pytest

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.testing import check_op
from tests.ops import draws

OPS = {
  "linear_attention": ("linear_attention", draws.linear_attention()),
  "linear_attention, head decay": (
    "linear_attention",
    draws.linear_attention("head"),
  ),
  "linear_attention, key decay": (
    "linear_attention",
    draws.linear_attention("key"),
  ),
  "delta_rule": ("delta_rule", draws.delta_rule()),
  "delta_rule, head decay": ("delta_rule", draws.delta_rule("head")),
  "delta_rule, key decay": ("delta_rule", draws.delta_rule("key")),
  "diagonal_recurrence": ("diagonal_recurrence", draws.diagonal()),
  "diagonal_recurrence, complex": (
    "diagonal_recurrence",
    draws.diagonal(complex_=True),
  ),
}
each_op = pytest.mark.parametrize("name", OPS)


def check(name, **options):
  op, draw = OPS[name]
  check_op(getattr(ops, op), getattr(reference, op), draw, **options)


@each_op
def test_every_form(name):
  check(name, lengths=(9, 29))


@pytest.mark.slow
@each_op
def test_every_form_and_length(name):
  check(name)


@pytest.mark.parametrize(
  "name", ["linear_attention, key decay", "diagonal_recurrence, complex"]
)
def test_every_length(name):
  check(name, forms=("chunked",), lengths=(1, 2, 7, 8, 63))


@pytest.mark.parametrize("name", ["delta_rule, key decay"])
def test_reverse(name):
  check(name, forms=("chunked", "parallel"), lengths=(21,), reverse=True)


@pytest.mark.parametrize(
  "name", ["linear_attention, head decay", "delta_rule, key decay"]
)
def test_bfloat16(name):
  check(name, lengths=(29,), dtypes=("bfloat16",))
