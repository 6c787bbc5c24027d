"""Programs for NVIDIA GPUs: few kernels, however long the sequence.

No GPU is needed; without JAX's CUDA plugin the tests are skipped.
"""

import jax
import pytest

from benchmarks import cost
from benchmarks.cases import CASES, Sizes
from jaxmodels.analysis import chips

pytestmark = [
  pytest.mark.gpu_aot,
  pytest.mark.skipif(not chips.is_there("gpu"), reason=chips.MISSING_GPU),
]
SIZES = Sizes(batch=2, length=4096, heads=8, width=128)


@pytest.mark.parametrize(
  ("op", "most"),
  [
    ("linear_attention", 60),
    pytest.param("linear_attention_key_decay", 65, marks=pytest.mark.slow),
    pytest.param("normalized_linear_attention", 95, marks=pytest.mark.slow),
    pytest.param("delta_rule", 100, marks=pytest.mark.slow),
    pytest.param("delta_rule_key_decay", 100, marks=pytest.mark.slow),
    pytest.param("dplr_recurrence", 120, marks=pytest.mark.slow),
  ],
)
def test_launches_of_a_gradient(monkeypatch, op, most):
  """`benchmarks/GPU.md` has the figures of all ops."""
  # Else a kernel is left out, for lack of a mesh to share it.
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  found = cost.row(
    CASES[op], "gradient", "float32", "auto", SIZES, (4096,), ("gpu",)
  )
  assert 0 < found.launches <= most
