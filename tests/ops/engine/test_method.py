"""The form of "auto", with and without a gradient."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.cases import CASES, Sizes
from benchmarks.programs import directions
from jaxmodels.ops.engine import auto, method, recurrence
from jaxmodels.ops.engine.platform import trace_for

SHORT, LONG = Sizes(length=256), Sizes(length=4096)
WIDE = Sizes(length=4096, width=128)


@pytest.fixture
def chosen(monkeypatch):
  """`(op, sizes) ->` the forms of "auto" for the value and the gradient."""
  asked = []

  run = recurrence.run

  def noted(*args, method, **options):
    asked.append(method)
    return run(*args, method=method, **options)

  def found(op, sizes):
    methods = {}
    programs = directions(CASES[op].op, CASES[op].shapes(sizes))
    for direction, (function, arguments) in programs.items():
      asked.clear()
      jax.eval_shape(function, *arguments)
      methods[direction] = asked[-1]
    return methods

  monkeypatch.setattr(recurrence, "run", noted)
  return found


@pytest.mark.parametrize(
  ("op", "sizes", "value", "gradient"),
  [
    ("linear_attention_no_decay", LONG, "chunked", "chunked"),
    ("linear_attention", SHORT, "recurrent", "chunk_parallel"),
    ("linear_attention", LONG, "recurrent", "chunked"),
    ("linear_attention_key_decay", SHORT, "recurrent", "chunk_parallel"),
    ("linear_attention_key_decay", LONG, "recurrent", "chunked"),
    ("linear_attention_key_decay", WIDE, "chunked", "chunked"),
    ("linear_attention_bonus", SHORT, "recurrent", "chunk_parallel"),
    ("linear_attention_bonus", LONG, "recurrent", "chunked"),
    ("delta_rule", SHORT, "recurrent", "chunked"),
    ("delta_rule_gates", LONG, "recurrent", "chunked"),
    ("delta_rule", WIDE, "chunked", "chunked"),
    ("dplr_recurrence", LONG, "recurrent", "chunked"),
    ("normalized_linear_attention", SHORT, "chunked", "chunk_parallel"),
    ("dense_recurrence", LONG, "recurrent", "recurrent"),
    ("diagonal_recurrence", LONG, "recurrent", "recurrent"),
    ("selective_scan", LONG, "chunked", "chunked"),
  ],
)
def test_auto_takes_these_forms_on_a_cpu(chosen, op, sizes, value, gradient):
  assert chosen(op, sizes) == {"forward": value, "gradient": gradient}


@pytest.mark.parametrize(
  ("op", "on_tpu", "on_gpu"),
  [
    ("linear_attention_no_decay", "chunk_parallel", "chunk_parallel"),
    ("linear_attention", "chunk_parallel", "chunk_parallel"),
    ("linear_attention_key_decay", "chunked", "chunk_parallel"),
    ("linear_attention_bonus", "chunked", "chunk_parallel"),
    ("delta_rule_no_decay", "chunked", "chunk_parallel"),
    ("delta_rule_gates", "chunked", "chunk_parallel"),
    ("delta_rule", "chunked", "chunk_parallel"),
    ("dplr_recurrence", "chunked", "chunk_parallel"),
    ("householder_product", "chunked", "chunk_parallel"),
    ("normalized_linear_attention", "chunk_parallel", "chunk_parallel"),
    ("diagonal_recurrence", "chunk_parallel", "chunk_parallel"),
    ("selective_scan", "chunked", "chunked"),
  ],
)
def test_auto_takes_these_forms_on_accelerators(chosen, op, on_tpu, on_gpu):
  for platform, form in (("tpu", on_tpu), ("gpu", on_gpu)):
    with trace_for(platform):
      assert chosen(op, SHORT) == {"forward": form, "gradient": form}


def test_a_value_and_its_gradient_may_have_different_forms():
  """Without a gradient one function runs; with a gradient only the other."""
  function = method.with_gradient_of(lambda x: 2 * x, lambda x: 3 * x + 1)
  assert function(jnp.ones(())) == 2
  value, gradient = jax.value_and_grad(function)(jnp.ones(()))
  assert (value, gradient) == (4, 3)


@pytest.mark.parametrize(
  "kind", ["linear_attention, decay per head", "delta_rule"]
)
def test_heads_that_share_narrow_keys_run_in_chunks(kind):
  """Their scores are computed once; with decays per key they are not."""
  shared, keys = (
    jax.ShapeDtypeStruct((1, 64, h, 32), jnp.float32) for h in (1, 4)
  )
  with trace_for("cpu"):
    assert auto.choose(kind, keys, keys).value == "recurrent"
    assert auto.choose(kind, shared, keys).value == "chunked"
    per_key = "delta_rule, decay per key"
    assert auto.choose(per_key, shared, keys).value == "recurrent"
