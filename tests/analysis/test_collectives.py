"""Collectives read from text, as compilers for TPUs and GPUs write it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels.analysis import chips
from jaxmodels.analysis.collectives import Collective, collectives

FUSED = '"async_collective_fusion_config":{"flag_start":"%s"}'


def program(*lines, rounds="constant(5)"):
  """A loop of five rounds around some lines, and computations they call."""
  body = "\n  ".join(lines)
  return f"""HloModule jit_step
%start.1 (p: f32[2,8]) -> f32[16,8] {{
  %p = f32[2,8]{{1,0}} parameter(0)
  %ag.1 = f32[16,8]{{1,0:T(8,128)}} all-gather(%p), backend_config={{\
{FUSED % -1}}}
  ROOT %c = (f32[16,8]) custom-call(%ag.1), \
custom_call_target="AsyncCollectiveStart"
}}
%middle.2 (p: f32[2,8]) -> f32[16,8] {{
  %ag.2 = f32[16,8]{{1,0}} all-gather(%p), backend_config={{{FUSED % 2}}}
}}
%all-reduce-scatter.3 (p: f32[64]) -> f32[8] {{
  %ar = f32[64]{{0}} all-reduce(%p), replica_groups={{{{0,1}}}}, \
to_apply=%add
}}
%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %s = f32[] add(%a, %b)
}}
%condition (t: (s32[], f32[2,8])) -> pred[] {{
  %bound = s32[]{{:T(128)}} {rounds}
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}}
%body (t: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {{
  {body}
}}
ENTRY %main (x: f32[2,8]) -> f32[2,8] {{
  %w = (s32[], f32[2,8]) while(%t), condition=%condition, body=%body
}}
"""


@pytest.mark.parametrize(
  ("line", "kind", "size"),
  [
    ("%f = (f32[16,8]) fusion(%x), calls=%start.1", "all-gather", 4 * 16 * 8),
    ("%f = f32[8] fusion(%x), calls=%all-reduce-scatter.3", "reduce-scatter",
     4 * 64),
    ("%r = (bf16[3]{0}, s32[]) all-reduce(%a, %b), to_apply=%add",
     "all-reduce", 2 * 3 + 4),
    ("%r = f32[2,8]{1,0} reduce-scatter(%a), replica_groups=[32,8]<=[256]",
     "reduce-scatter", 8 * 4 * 16),
    ("%r = f32[2] reduce-scatter(%a), "
     "replica_groups=mesh['a'=4,'b'=2] {'a'}", "reduce-scatter", 4 * 8),
    ("%p = (pred[8,3]{1,0}, pred[8,3]{1,0}, u32[]) "
     "collective-permute-start(%a), source_target_pairs={{0,1}}",
     "collective-permute", 24),
    ("%g = (f32[2]{0}, f32[16]{0}) all-gather-start(%a)", "all-gather", 64),
    # By a GPU's compiler: of several arrays, and of one.
    ("%g = ((f32[16,16]{1,0}, f32[4,128]{1,0}), (f32[64,16]{1,0}, "
     "/*index=3*/f32[16,128]{1,0})) all-gather-start(%a, %b), "
     "replica_groups={{0,1,2,3}}", "all-gather", 4 * (64 * 16 + 16 * 128)),
    ("%s = ((f32[32,64]{1,0}, f32[32,128]{1,0}), (f32[8,64]{1,0}, "
     "f32[8,128]{1,0})) reduce-scatter-start(%a, %b), "
     "replica_groups={{0,1,2,3}}", "reduce-scatter", 4 * 32 * (64 + 128)),
    ("%s = (f32[64]{0}, f32[16]{0}) reduce-scatter-start(%a), "
     "replica_groups=[2,4]<=[8]", "reduce-scatter", 4 * 64),
    ("%r = (f32[33]{0}, bf16[8]{0}) all-reduce-start(%a, %b), to_apply=%add",
     "all-reduce", 4 * 33 + 2 * 8),
    ("%t = ((bf16[4,8]{1,0:T(8,128)}), bf16[4,8]{1,0}) "
     "all-to-all-start(%a), dimensions={0}", "all-to-all", 64),
    ("%t = f8e4m3fn[4,4]{1,0} all-to-all(%a)", "all-to-all", 16),
  ],
)  # fmt: skip
def test_each_kind_counts_with_its_bytes_every_round(line, kind, size):
  line += ', metadata={op_name="jit(step)/here"}'
  (found,) = collectives(program(line))
  assert found[:3] == (kind, size, 5)


def test_pieces_and_ends_of_what_has_begun_are_not_counted_again():
  text = program(
    "%a = f32[16,8] fusion(%x), calls=%middle.2",
    "%d = f32[16] all-gather-done(%g)",
    "%e = pred[8,3] collective-permute-done(%p)",
  )
  assert collectives(text) == []


def test_rounds_that_are_not_told_count_once():
  text = program("%t = f32[4] all-to-all(%a)", rounds="parameter(1)")
  assert collectives(text) == [Collective("all-to-all", 16, 1, "")]
  told = text.replace(
    "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
  )
  assert collectives(told)[0].times == 7


@pytest.mark.gpu_aot
@pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU)
def test_a_program_for_gpus_counts_as_by_hand():
  """Two arrays are gathered, and two reduced, in one collective each."""
  mesh = Mesh(np.array(chips.slice_devices("h100:2x2")), ("i",))
  rows = PartitionSpec("i")

  def array(*shape, dtype=jnp.float32):
    where = NamedSharding(mesh, rows)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  def exchange(x, left, right, small):
    weights = [jax.lax.all_gather(w, "i", tiled=True) for w in (left, right)]
    parts = [
      jax.lax.psum_scatter(product, "i", tiled=True)
      for product in (x.T @ weights[0].T, x.T @ weights[1])
    ]
    sums = jax.lax.psum(jnp.sum(x, 0), "i")
    passed = jax.lax.ppermute(small, "i", [(i, (i + 1) % 4) for i in range(4)])
    turned = jax.lax.all_to_all(small, "i", 0, 1, tiled=True)
    return *parts, sums, passed, turned

  step = jax.shard_map(
    exchange,
    mesh=mesh,
    in_specs=(rows,) * 4,
    out_specs=(rows, rows, PartitionSpec(), rows, rows),
    check_vma=False,
  )
  arrays = (array(64, 32), array(64, 16), array(16, 128))
  lowered = jax.jit(step).lower(*arrays, array(16, 8, dtype=jnp.bfloat16))
  found = collectives(lowered.compile().as_text())
  # Per device: `x` is [16, 32], and the products [32, 64] and [32, 128].
  assert sorted(one[:3] for one in found) == [
    ("all-gather", 4 * (64 * 16 + 16 * 128), 1),
    ("all-reduce", 4 * 32, 1),
    ("all-to-all", 2 * 4 * 8, 1),
    ("collective-permute", 2 * 4 * 8, 1),
    ("reduce-scatter", 4 * 32 * (64 + 128), 1),
  ]
