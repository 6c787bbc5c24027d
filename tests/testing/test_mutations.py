"""Planted faults: each is caught by `check_op`, and called by its name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops import delta_rule, linear_attention, reference
from jaxmodels.ops.engine.decay import boundary_decay, decayed_scores
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.recurrence import Summary
from jaxmodels.testing import check_op
from tests.ops import draws


def linear_op(**faults):
  """Linear attention with some of its functions replaced.

  Its step is what follows from the others.
  """
  family = linear_attention.FAMILY._replace(**{"step": None, **faults})
  changed = with_family(linear_attention.OP, family)

  def op(initial_state, *, segment_ids, axis_name=None, **given):
    options = {n: given.pop(n) for n in Options._fields if n in given}
    options = Options(axis_name=axis_name, **options)
    others = ("bonus", "decay_sign", "value_log_decay")
    given = dict.fromkeys(others) | given
    return changed(given, initial_state, segment_ids, options)

  return op


def with_family(op, family):
  """An op of the library that runs another family."""

  def recurrence(**given):
    return op.recurrence(**given)._replace(family=family)

  return dataclasses.replace(op, recurrence=recurrence)


def delta_op(**faults):
  """The delta rule likewise, its `read_and_advance` too."""
  changes = {"read_and_advance": None, "step": None, **faults}
  family = delta_rule.FAMILY._replace(**changes)
  changed = with_family(delta_rule.OP, family)

  def op(initial_state, *, segment_ids, **given):
    options = {n: given.pop(n) for n in Options._fields if n in given}
    given = {"log_decay": None, "write_gate": None, **given}
    return changed(given, initial_state, segment_ids, Options(**options))

  return op


def report(op, definition, draw, form):
  with pytest.raises(AssertionError) as caught:
    check_op(
      op,
      definition,
      draw,
      forms=(form,),
      lengths=(20,),
      resets=("none", "inside a chunk", "everywhere"),
    )
  return str(caught.value)


# Faults.


def forget_state(summary, state):
  return summary.update + jnp.zeros_like(state)


def forget_transition(summary, state):
  return summary.update + state


def compose_without_decay(earlier, later):
  return Summary(
    later.transition * earlier.transition, earlier.update + later.update
  )


def read_without_decay(chunk, masks, state):
  decay = boundary_decay(chunk.log_decay, chunk.k, masks)
  scores = decayed_scores(chunk.q, chunk.k, None, masks)
  return scores @ chunk.v + (chunk.q * decay.entry) @ state


def with_links(function, change):
  def changed(chunk, masks, *state):
    return function(chunk, masks._replace(**change(masks)), *state)

  return changed


def strict(masks):
  return {"pair": masks.pair & ~np.eye(masks.pair.shape[0], dtype=bool)}


def one_ahead(masks):
  return {"pair": masks.pair | np.eye(masks.pair.shape[0], k=1, dtype=bool)}


def ignored(name):
  def change(masks):
    everything = {"pair": np.tri(masks.pair.shape[0], dtype=bool)}
    joined = everything.get(name, jnp.ones_like(getattr(masks, name)))
    return {name: joined}

  return change


@jax.custom_jvp
def twice_as_steep(x):
  return x


@twice_as_steep.defjvp
def _(primals, tangents):
  return primals[0], 2 * tangents[0]


def steep(function, name):
  def changed(chunk, masks, *state):
    value = twice_as_steep(getattr(chunk, name))
    return function(chunk._replace(**{name: value}), masks, *state)

  return changed


LINEAR_FAULTS = {
  "the state is forgotten": (
    {"advance": forget_state},
    "chunked",
    "lost carry; y is right up to token 7 and wrong from the next chunk",
  ),
  "the state is forgotten, token by token": (
    {"advance": forget_state},
    "recurrent",
    "lost carry; y is right up to token 0",
  ),
  "the last token is not read where only the value is asked": (
    {
      "step": lambda token, masks, state: (
        token.q @ state,
        linear_attention.step(token, masks, state)[1],
      )
    },
    "recurrent",
    "off-by-one mask; k of token 10 does not move y of the same token",
  ),
  "the initial state is forgotten": (
    {"advance": forget_state},
    "associative",
    "lost carry; right once initial_state is zero",
  ),
  "chunks do not decay the state": (
    {"advance": forget_transition},
    "chunked",
    "missing decay; right once log_decay is zero: lost between chunks",
  ),
  "spans do not decay the state": (
    {"compose": compose_without_decay},
    "associative",
    "missing decay; right once log_decay is zero: lost between tokens",
  ),
  "devices do not decay the state": (
    {"advance": forget_transition},
    "sequence-parallel",
    "missing decay; right once log_decay is zero: lost between chunks",
  ),
  "no decay within a chunk": (
    {"read": read_without_decay},
    "chunk_parallel",
    "missing decay; right once log_decay is zero: lost within a chunk",
  ),
  "a token does not see itself": (
    {"read": with_links(linear_attention.read, strict)},
    "chunked",
    "off-by-one mask; k of token 10 does not move y of the same token",
  ),
  "a token sees the next": (
    {"read": with_links(linear_attention.read, one_ahead)},
    "chunked",
    "reads the future; k of token 10 moves y of token 9",
  ),
  "the entering state leaks into a new segment": (
    {"read": with_links(linear_attention.read, ignored("entry"))},
    "chunked",
    "leaked reset; wrong only where a segment starts",
  ),
  "an old segment leaks into the state": (
    {"summarize": with_links(linear_attention.summarize, ignored("exit"))},
    "chunk_parallel",
    "leaked reset",
  ),
  "the state leaks through": (
    {"summarize": with_links(linear_attention.summarize, ignored("through"))},
    "recurrent",
    "leaked reset",
  ),
  "an old segment leaks into a new one": (
    {"read": with_links(linear_attention.read, ignored("pair"))},
    "chunked",
    "leaked reset",
  ),
  "the gradient is wrong": (
    {"read": steep(linear_attention.read, "v")},
    "chunk_parallel",
    "wrong gradient; values are right",
  ),
}


@pytest.mark.parametrize("fault", LINEAR_FAULTS)
def test_linear_attention(fault):
  faults, form, words = LINEAR_FAULTS[fault]
  draw = draws.linear_attention("head")
  text = report(linear_op(**faults), reference.linear_attention, draw, form)
  assert f"{form}: {words}" in text
  assert len(text.splitlines()) < 10


DELTA_FAULTS = {
  "the transition is forgotten": (
    {"advance": forget_transition},
    "chunked",
    "lost carry; y is right up to token 7",
  ),
  "a token does not see itself": (
    {"read": with_links(delta_rule.read, strict)},
    "chunk_parallel",
    "off-by-one mask; beta of token 10",
  ),
  "the state leaks through": (
    {"summarize": with_links(delta_rule.summarize, ignored("through"))},
    "chunked",
    "leaked reset",
  ),
  "the gradient is wrong": (
    {"read_and_advance": steep(delta_rule.read_and_advance, "beta")},
    "chunked",
    "wrong gradient; values are right",
  ),
}


@pytest.mark.parametrize("fault", DELTA_FAULTS)
def test_delta_rule(fault):
  faults, form, words = DELTA_FAULTS[fault]
  text = report(
    delta_op(**faults), reference.delta_rule, draws.delta_rule(), form
  )
  assert f"{form}: {words}" in text


def test_the_report_groups_forms_and_says_what_is_right():
  op = linear_op(read=read_without_decay)
  with pytest.raises(AssertionError) as caught:
    check_op(
      op,
      reference.linear_attention,
      draws.linear_attention("head"),
      forms=("recurrent", "chunk_parallel", "chunked"),
      lengths=(1, 20),
      resets=("none",),
    )
  lines = str(caught.value).splitlines()
  # y and the gradients of all but the final state, at one length, twice.
  assert "of 42 comparisons with the definition failed." in lines[0]
  assert lines[1].startswith("chunk_parallel, chunked: missing decay; ")
  assert lines[2].startswith("  y is off by ")
  assert "first at token 1: chunk_parallel, length 20, resets: none" in lines[2]
  assert lines[-2:] == [
    "  length: wrong at 20; right at 1",
    "right: recurrent.",
  ]
