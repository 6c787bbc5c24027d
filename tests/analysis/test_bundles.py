"""Bundles of a kernel counted in the files of the TPU's compiler."""

import pytest

from jaxmodels.analysis import bundles

TEXT = """= control target key start
LB: loop body

     0   :  { %s1 = smov 1 /* materialized constant */ }
   0x1   :  { %s2 = sld [smem:[%s1]]  ;;  %s3 = smov 2 }
   0x2 LB: > { %s4 = sadd %s2, %s3 }
   0x3   : > { %s5 = sadd %s4, %s3 }
   0x4 LB: >> { %v1 = vld [vmem:[%s5]] }
   0x5 PF: > { %s6 = sld [smem:[%s1]] }
   0x6   :  { %7 = shalt.err (%s6) }
"""


def test_each_bundle_counts_by_the_loops_around_it(tmp_path):
  (tmp_path / "1-chunk_forward-72-final_bundles.txt").write_text(TEXT)
  (tmp_path / "2-chunk_backward-9-final_bundles.txt").write_text(TEXT)
  (tmp_path / "3-chunk_forward-schedule-final_bundles.txt").write_text(TEXT)
  (tmp_path / "4-copy-66-final_bundles.txt").write_text(TEXT)
  one = 3 + 10 * (3 + 4 * 1)
  assert bundles.kernel_cycles(tmp_path, "chunk_forward", (10, 4)) == one
  assert bundles.kernel_cycles(tmp_path, "chunk_", (10, 4)) == 2 * one
  with pytest.raises(ValueError, match="in 2 loops, not 1"):
    bundles.kernel_cycles(tmp_path, "chunk_", (10,))
