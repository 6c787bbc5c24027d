"""Cycles summed up from the text of a program for a TPU."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import tpu
from jaxmodels.analysis import chips
from jaxmodels.analysis.cycles import expected_cycles

TEXT = """HloModule jit_step
%fused (p: f32[8]) -> f32[8] {
  ROOT %m = f32[8] multiply(%p, %p)
}
%condition (t: (s32[], f32[8])) -> pred[] {
  %bound = s32[] constant(5)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}
%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f = f32[8] fusion(%x), calls=%fused, backend_config={"estimated_cycles":"7"}
}
%left (p: f32[8]) -> f32[8] {
  %n = f32[8] negate(%p), backend_config={"a":"3","estimated_cycles":"100"}
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%condition, body=%body
  %b = f32[8] conditional(%i, %x, %x), branch_computations={%left, %fused}
  %c = f32[8] copy(%x), backend_config={"estimated_cycles":"1000"}
  %u = f32[8] sort(%c), backend_config={"estimated_cycles":"1125899906842624"}
}
"""


def test_a_loop_counts_by_its_rounds_and_a_branch_whole():
  assert expected_cycles(TEXT) == 5 * 7 + 100 + 1000


def test_a_program_for_another_platform_tells_nothing():
  text = jax.jit(jnp.sin).lower(jnp.ones(8)).compile().as_text()
  assert expected_cycles(text) == 0


@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
def test_the_compiler_names_them():
  """Sixteen times the products take about as many times the cycles."""

  def cycles(rounds):
    x = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=tpu.chip())

    def chain(x):
      body = lambda x, _: (jnp.sin(x @ x), None)  # noqa: E731
      return jax.lax.scan(body, x, length=rounds)[0]

    return expected_cycles(jax.jit(chain).lower(x).compile().as_text())

  assert cycles(160) == pytest.approx(16 * cycles(10), rel=0.2)
