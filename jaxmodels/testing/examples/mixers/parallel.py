"""Several mixers beside one another."""

from jaxmodels.mixers.mamba2 import Mamba2
from jaxmodels.mixers.softmax_attention import SoftmaxAttention
from jaxmodels.testing.examples.example import MixerExample
from jaxmodels.testing.examples.mixers import mamba2, softmax_attention


def plain(p, x, layer):
  """One document x [L, D], of Mamba-2 and softmax attention."""
  a, b = layer.input_factors, layer.output_factors
  first, second = layer.mixers
  y = b[0] * mamba2.plain(p["branch_0"], a[0] * x, first)
  return y + b[1] * softmax_attention.plain(p["branch_1"], a[1] * x, second)


EXAMPLES = (
  MixerExample(
    "parallel",
    "parallel",
    plain,
    {
      "mixers": (
        Mamba2(16, expand=1, head_width=8, state_width=4),
        SoftmaxAttention(16, heads=2, max_length=50),
      ),
      "input_factors": (0.7, 1.2),
      "output_factors": (1.5, 0.6),
    },
    equation="`y = sum_i b_i mixer_i(a_i x)`",
    transition="inherited: its mixers'",
    paper="Zuo et al. 2025, arXiv:2507.22448",
  ),
)
