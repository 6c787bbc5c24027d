"""Every form of every op against its definition: values and gradients.

Each record of an op runs by default, in two forms and at one length; all forms,
lengths, resets and shards are slow.
"""

import functools

import pytest

from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.testing import check_op
from jaxmodels.testing.cases import FORMS, SHARDED
from jaxmodels.testing.examples import OPS

RECORDS = [name for name, record in OPS.items() if record.has_state]
each_op = pytest.mark.parametrize("name", RECORDS)
# Records that differ from another one by an option that every form treats
# alike: all their forms and lengths are left to `make test-all`.
VARIANTS = (
  "delta_rule_gates",
  "delta_rule_gates_head_decay",
  "delta_rule_no_decay",
  "dense_recurrence_full",
  "dplr_recurrence_head_decay",
  "linear_attention_bonus",
  "linear_attention_bonus_head_decay",
  "linear_attention_no_decay",
  "linear_attention_signed",
  "log_linear_attention_delta_rule",
  "normalized_linear_attention_bonus",
  "normalized_linear_attention_epsilon",
  "normalized_linear_attention_no_gates",
  "selective_scan_negative",
  "state_space_complex",
)
# The rest runs in `make test-matrix`: see `test_every_form_and_length`.
QUICK = (
  "delta_rule",
  "dense_recurrence",
  "diagonal_recurrence_sum",
  "linear_attention",
  "linear_attention_no_decay",
  "linear_attention_value_decay",
)
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


def check(name, *, forms=FORMS, **options):
  record = OPS[name]
  # Without "associative", spans do not compose, and cannot be sharded.
  names = {SHARDED: "associative"}
  forms = [f for f in forms if names.get(f, f) in record.methods]
  if not forms:
    pytest.skip("the op has none of these forms")
  functions = record.op, record.definition
  if record.options:  # Else as they are: `check_op` knows a definition again.
    functions = (functools.partial(f, **record.options) for f in functions)
  options |= {"whole": record.whole, "forms": forms}
  check_op(*functions, record.draw_length, **options)


@pytest.mark.parametrize(
  "name",
  [
    # What is slow is in `test_every_form_and_length` too, but for variants.
    pytest.param(
      x,
      marks=()
      if x in QUICK
      else pytest.mark.slow
      if x in VARIANTS
      else (pytest.mark.slow, pytest.mark.exhaustive),
    )
    for x in RECORDS
  ],
)
def test_chunked_forms(name):
  check(
    name, forms=("chunked", "chunk_parallel"), lengths=(LENGTH,), resets=GIVEN
  )


# The forms that do not work in chunks, and shards of a sequence, of one op of
# each kind: the others differ by their decay, which chunks see.
@pytest.mark.parametrize(
  "name",
  [
    "linear_attention_key_decay",
    "delta_rule",
    "diagonal_recurrence_complex",
  ],
)
def test_other_forms(name):
  forms = ("recurrent", "associative", "sequence-parallel")
  check(name, forms=forms, lengths=(LENGTH,), resets=GIVEN)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(x, marks=pytest.mark.exhaustive if x in VARIANTS else ())
    for x in RECORDS
  ],
)
@pytest.mark.parametrize(
  "lengths",
  [
    # One token, a chunk and one more, and chunks with a rest.
    pytest.param((1, 9, LENGTH), id="edges"),
    pytest.param((2, 7, 8, 29, 63), id="others", marks=pytest.mark.exhaustive),
  ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_form_and_length(name, reverse, lengths):
  check(name, reverse=reverse, lengths=lengths)


@pytest.mark.parametrize(
  "name",
  [
    "delta_rule",
    *(
      pytest.param(
        x,
        marks=(pytest.mark.slow, pytest.mark.exhaustive)
        if x in VARIANTS
        else pytest.mark.slow,
      )
      for x in RECORDS
      if x != "delta_rule"
    ),
  ],
)
def test_walks_in_blocks(name):
  """As programs for a GPU walk through chunks; see `engine.walk`."""
  with trace_for("gpu"):
    check(
      name,
      forms=("chunk_parallel", SHARDED),
      lengths=(LENGTH,),
      resets=("none", "inside a chunk"),
    )


def test_short_lengths():
  # 44 is in the tests above, longer ones are in the slow one.
  lengths = (1, 2, 7, 8, 9)
  check(
    "diagonal_recurrence", forms=("chunked",), lengths=lengths, resets=GIVEN
  )


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


# Three more are in `test_other_forms`; the others are slow.
@pytest.mark.parametrize(
  "name",
  [
    "linear_attention",
    "delta_rule_key_decay",
    "dense_recurrence_full",
    "selective_scan",
  ],
)
def test_sharded(name):
  check_sharded(name, 4)


@pytest.mark.slow
def test_sharded_over_two_in_reverse():
  check_sharded("delta_rule", 2, reverse=True)


def test_sharded_over_eight():
  check_sharded("linear_attention_key_decay", 8)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shards", [2, 4, 8])
@each_op
def test_sharded_over_few_and_many(name, shards, reverse):
  check_sharded(name, shards, reverse)


def test_sharded_without_segment_ids():
  check_sharded("delta_rule_key_decay", 4, resets=("no segment ids",))
