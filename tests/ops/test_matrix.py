"""Every form of every op against its definition: values and gradients."""

import functools

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
  "linear_attention, bonus": (
    "linear_attention",
    draws.linear_attention("key", bonus=True),
  ),
  "linear_attention, bonus and head decay": (
    "linear_attention",
    draws.linear_attention("head", bonus=True),
  ),
  "delta_rule": ("delta_rule", draws.delta_rule()),
  "delta_rule, head decay": ("delta_rule", draws.delta_rule("head")),
  "delta_rule, key decay": ("delta_rule", draws.delta_rule("key")),
  "delta_rule, gates": ("delta_rule", draws.delta_rule("key", gates=True)),
  "delta_rule, gates and head decay": (
    "delta_rule",
    draws.delta_rule("head", gates=True),
  ),
  "diagonal_recurrence": ("diagonal_recurrence", draws.diagonal()),
  "diagonal_recurrence, complex": (
    "diagonal_recurrence",
    draws.diagonal(complex_=True),
  ),
  "dplr_recurrence, head decay": ("dplr_recurrence", draws.dplr("head")),
  "dplr_recurrence, key decay": ("dplr_recurrence", draws.dplr("key")),
  "dense_recurrence": ("dense_recurrence", draws.dense()),
  "householder_product, head decay": (
    "householder_product",
    draws.householder("head"),
  ),
}
# Ops with parameters that are not sequences, with options, or with a state of
# several arrays: their files test what test_contract.py tests of the others.
MORE = {
  "selective_scan": ("selective_scan", draws.selective_scan, {}),
  "dense_recurrence, blocks": (
    "dense_recurrence",
    draws.dense((2,)),
    {"block_diagonal": True},
  ),
  "normalized_linear_attention": (
    "normalized_linear_attention",
    draws.normalized(gates=False),
    {},
  ),
  "normalized_linear_attention, gates": (
    "normalized_linear_attention",
    draws.normalized(gates=True),
    {},
  ),
}
each_op = pytest.mark.parametrize("name", OPS)
# Five chunks of 8 and a rest; over four devices one and a rest on each.
LENGTH = 44
# Segment ids given, whether or not a segment starts: one program for all.
GIVEN = (
  "none",
  "at the first token",
  "inside a chunk",
  "at a chunk's edge",
  "everywhere",
  "with empty segments",
  "that come back",
  "padding of 0",
  "padding of -1",
)


# Arguments without a length axis, which every device has whole.
WHOLE = {"linear_attention": ("bonus",), "selective_scan": ("A", "D")}


def check(name, **options):
  op, draw, fixed = MORE.get(name) or (*OPS[name], {})
  functions = getattr(ops, op), getattr(reference, op)
  if fixed:  # Else as they are: `check_op` knows a definition again.
    functions = (functools.partial(f, **fixed) for f in functions)
  check_op(
    *functions,
    draw,
    whole=WHOLE.get(op, ()),
    **options,
  )


# One op of each kind in every form; the others differ by their decay, which
# the forms that work in chunks see.
@pytest.mark.parametrize(
  "name",
  [
    "linear_attention, key decay",
    "delta_rule, head decay",
    "diagonal_recurrence, complex",
  ],
)
def test_every_form(name):
  check(name, lengths=(LENGTH,), resets=GIVEN)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param("linear_attention", marks=pytest.mark.slow),
    "linear_attention, head decay",
    "linear_attention, bonus",
    "delta_rule, key decay",
    "delta_rule, gates",
    "dplr_recurrence, key decay",
    "dense_recurrence",
  ],
)
def test_chunked_forms(name):
  check(
    name, forms=("chunked", "chunk_parallel"), lengths=(LENGTH,), resets=GIVEN
  )


@pytest.mark.slow
@each_op
@pytest.mark.parametrize("reverse", [False, True])
def test_every_form_and_length(name, reverse):
  check(name, reverse=reverse)


def test_short_lengths():
  # 44 is in the tests above, 29 and 63 are in the slow one.
  lengths = (1, 2, 7, 8, 9)
  check(
    "diagonal_recurrence", forms=("chunked",), lengths=lengths, resets=GIVEN
  )


@pytest.mark.parametrize(
  "name",
  [
    "selective_scan",
    "dense_recurrence, blocks",
    "normalized_linear_attention, gates",
  ],
)
def test_chunked_forms_of_more(name):
  check(
    name, forms=("chunked", "chunk_parallel"), lengths=(LENGTH,), resets=GIVEN
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_every_form_and_length_of_more(name):
  check(name)


def check_sharded(name, shards, reverse=False, resets=GIVEN):
  """Eleven tokens on each device: a chunk of 8 and a rest.

  "everywhere" packs seven documents into the first two shards or, on eight
  devices, one that all the others share.
  """
  check(
    name,
    forms=("sequence-parallel",),
    lengths=(11 * shards,),
    resets=resets,
    shards=shards,
    reverse=reverse,
  )


# Three more are in `test_every_form`; the others are slow.
@pytest.mark.parametrize(
  "name",
  [
    "linear_attention, head decay",
    "delta_rule, key decay",
    "dense_recurrence",
    "selective_scan",
  ],
)
def test_sharded(name):
  check_sharded(name, 4)


def test_sharded_over_two_in_reverse():
  check_sharded("delta_rule, head decay", 2, reverse=True)


def test_sharded_over_eight():
  check_sharded("linear_attention, key decay", 8)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shards", [2, 4, 8])
@pytest.mark.parametrize("name", [*OPS, *MORE])
def test_sharded_over_few_and_many(name, shards, reverse):
  check_sharded(name, shards, reverse)


def test_sharded_without_segment_ids():
  check_sharded("delta_rule, key decay", 4, resets=("no segment ids",))
