"""Launches counted from the text of a program for a GPU."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from jaxmodels.analysis import chips
from jaxmodels.analysis.launches import launches

TEXT = """HloModule jit_step
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}
%inner (p: f32[8]) -> f32[8] {
  ROOT %m = f32[8]{0} multiply(%p, %p)
}
%fused (p: f32[8]) -> f32[] {
  %nested = f32[8]{0} fusion(%p), kind=kLoop, calls=%inner
  ROOT %r = f32[] reduce(%nested, %zero), dimensions={0}, to_apply=%add
}
%condition (t: (s32[], f32[8])) -> pred[] {
  ROOT %lt = pred[] fusion(%i), kind=kLoop, calls=%less
}
%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %f = f32[] fusion(%x), kind=kInput, calls=%fused
  %g = ((f32[2]{0}, f32[2]{0}), (f32[8]{0}, /*index=3*/f32[8]{0})) \
all-gather-start(%a, %b), replica_groups={{0,1,2,3}}
  %d = (f32[8]{0}, f32[8]{0}) all-gather-done(%g)
  ROOT %out = (s32[], f32[8]{0}) tuple(%i, %x)
}
%called (p: f32[8]) -> f32[8] {
  %bits = s32[8]{0} bitcast(%p)
  ROOT %copy.1 = f32[8]{0} copy(%p)
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %zero = f32[] constant(0)
  %w = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %b = f32[8]{0} conditional(%i, %x, %x), branch_computations={%called, %called}
  %c = f32[8]{0} call(%x), to_apply=%called
  %k = (f32[8]{0}, s8[64]{0}) custom-call(%x), \
custom_call_target="__cublas$lt$matmul"
  ROOT %u = f32[8]{0} sort(%c), dimensions={0}, to_apply=%less
}
"""


def test_what_is_in_a_fusion_is_one_launch_and_names_are_none():
  # A fusion and a collective in each of five rounds; a copy in two branches and
  # a call; a library; a sort.
  assert launches(TEXT) == 5 * 2 + 3 + 1 + 1


def test_a_program_without_instructions_launches_nothing():
  assert launches("HloModule empty\nENTRY %main () -> () {\n}\n") == 0


@pytest.mark.gpu_aot
@pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU)
def test_they_are_what_the_compiler_tells_the_host_to_submit(tmp_path):
  """The compiler's own list of the host's work, with one loop of 7 rounds."""
  where = SingleDeviceSharding(chips.slice_devices("h100:1")[0])
  x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=where)

  def chain(x):
    body = lambda y, _: (jnp.sin(y @ x), jnp.max(y, 0))  # noqa: E731
    y, seen = jax.lax.scan(body, x, length=7)
    return jnp.sum(y), seen.T, jnp.linalg.cholesky(y)

  options = {"xla_dump_to": str(tmp_path)}
  compiled = jax.jit(chain).lower(x).compile(compiler_options=options)
  (listed,) = tmp_path.glob("*.thunk_sequence.txt")
  # The loop's test, and then its body, are indented.
  before, loop = listed.read_text().split("condition:\n")
  body, after = re.split(r"\n(?=\S)", loop.split("body:\n")[1], maxsplit=1)
  work = re.compile(r"\d+: k(CustomKernel|Copy|CustomCall) ")
  found = [len(work.findall(part)) for part in (before, body, after)]
  assert min(found) > 1
  assert launches(compiled.as_text()) == found[0] + 7 * found[1] + found[2]
