"""Bundles of a kernel counted in the files of the TPU's compiler."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl

from jaxmodels import ops
from jaxmodels.analysis import bundles
from jaxmodels.analysis.bundles import Loop
from jaxmodels.ops.engine.platform import trace_for

TEXT = """= control target key start
LB: loop body

     0   :  { %s1 = smov 1 /* materialized constant */ }
   0x1   :  { %s2 = sld [smem:[%s1]]  ;;  %s3 = smov 2 }
   0x2 LB: > { %s4 = sadd %s2, %s3 }
   0x3   : > { %s5 = sadd %s4, %s3 }
   0x4 LB: >> { %v1 = vld [vmem:[%s5]] }
   0x5 PF: > { %s6 = sld [smem:[%s1]] }
   0x6   : >> { %v2 = vld [vmem:[%s5]] }
   0x7 LB: >> { %v1 = vld [vmem:[%s5]] }
   0x8   :  { %7 = shalt.err (%s6) }
"""
LOOP = Loop(10, (Loop(4), Loop(7)))


def test_each_bundle_counts_by_the_loops_around_it(tmp_path):
  (tmp_path / "1-chunk_forward-72-final_bundles.txt").write_text(TEXT)
  (tmp_path / "2-chunk_backward-9-final_bundles.txt").write_text(TEXT)
  (tmp_path / "3-chunk_forward-schedule-final_bundles.txt").write_text(TEXT)
  (tmp_path / "4-copy-66-final_bundles.txt").write_text(TEXT)
  one = 3 + 10 * (3 + 4 * 2 + 7 * 1)
  assert bundles.kernel_cycles(tmp_path, "chunk_forward", LOOP) == one
  assert bundles.kernel_cycles(tmp_path, "chunk_", LOOP) == 2 * one


@pytest.mark.parametrize(
  ("loop", "message"),
  [
    (Loop(10, (Loop(4),)), "a loop in 1 loops that was not traced"),
    (Loop(1, (Loop(4), Loop(7))), "a loop in 1 loops that was not traced"),
    (Loop(10, (Loop(4), Loop(7), Loop(2))), "fewer loops than the traced"),
  ],
)
def test_other_loops_than_the_traced_ones_are_refused(tmp_path, loop, message):
  (tmp_path / "1-kernel-72-final_bundles.txt").write_text(TEXT)
  with pytest.raises(ValueError, match=message):
    bundles.kernel_cycles(tmp_path, "kernel", loop)
  with pytest.raises(ValueError, match="no bundles of a kernel other"):
    bundles.kernel_cycles(tmp_path, "other", loop)


def test_a_kernel_runs_by_its_grid_its_loops_and_those_around_it():
  def body(x, y):
    def add(_, carry):
      return lax.fori_loop(0, 6, lambda i, c: c + i, carry, unroll=2)

    y[...] = x[...] + lax.fori_loop(0, 5, add, 0)
    y[...] += lax.fori_loop(0, 3, lambda i, c: c + i, 0, unroll=True)
    y[...] *= lax.fori_loop(0, 4, lambda i, c: c + i, 0)

  kernel = pl.pallas_call(
    body,
    jax.ShapeDtypeStruct((16, 128), jnp.int32),
    grid=(2, 3),
    in_specs=[pl.BlockSpec((8, 128), lambda i, j: (i, 0))],
    out_specs=pl.BlockSpec((8, 128), lambda i, j: (i, 0)),
    name="sums",
  )

  def program(x):
    x, _ = lax.scan(lambda x, _: (jax.jit(kernel)(x), None), x, length=7)
    return jax.vmap(kernel)(jnp.stack([x] * 4))

  x = jax.ShapeDtypeStruct((16, 128), jnp.int32)
  looped, single = bundles.calls(program, x)
  inner = (Loop(5, (Loop(3),)), Loop(4))
  assert (looped.name, looped.times, looped.loop) == ("sums", 7, Loop(6, inner))
  assert (single.times, single.loop) == (1, Loop(24, inner))
  assert [x.shape for x in (*looped.shapes, *single.shapes)] == [
    (16, 128),
    (4, 16, 128),
  ]
  assert jax.eval_shape(looped.function, x)[0] == x


def test_the_kernels_of_an_op_without_the_interpreted_ones():
  """32 chunks of two rows, and a loop over 3 heads in each."""
  x = jax.ShapeDtypeStruct((2, 4096, 3, 128), jnp.bfloat16)

  def gradient(x):
    def loss(x):
      return jnp.sum(ops.linear_attention(x, x, x, method="pallas")[0])

    return jax.grad(loss)(x)

  with trace_for("tpu"):
    found = bundles.calls(gradient, x)
  assert [(x.name, x.times, x.loop) for x in found] == [
    (name, 1, Loop(64, (Loop(3),)))
    for name in ("chunk_forward", "chunk_backward")
  ]
