"""Recurrences: arrays in, arrays out. No parameters, no Flax.

Letters used in every shape:
  B batch (leading batch axes may be several), L length, H heads,
  K key width, V value width, D model width, N state width,
  C tokens per chunk, W width of a convolution, G blocks, and M what else an
  op has several of, as its docstring says. A small letter divides its capital:
  each of h heads of q and k serves H / h heads of v, in order. These heads are
  repeated chunk by chunk, never as a whole sequence.

An op with a state is called

    op(..., initial_state=None, *, segment_ids=None, reverse=False,
       method="auto", chunk_size=None, axis_name=None) -> (y, final_state)

The arguments that these ops share (the docstrings of `bidirectional`,
`long_convolution`, `causal_convolution`, `attention` and the Kalman scans say
what is different for them):

- `initial_state`: the state that enters, zero by default. States are float32 or
  wider. An op returns exactly what it takes back: a sequence that is cut
  anywhere and continued equals the uncut one.
- `segment_ids`: [..., L] integers, or None for one segment. A segment is a run
  of equal ids along L: each change of the id resets the state, also to an id
  that was there before, and each token sees its own segment only. Ids are any
  integers, such as 0 or -1 for padding. The state that enters has id 0: a first
  token of id 0 continues it, and any other id starts from zero, so
  `cumsum(resets)` resets at the first token too. `segments` makes ids of
  documents in one row (`from_cu_seqlens`), of resets (`from_resets`), and of
  the rest of a sequence that was cut (`continue_ids`).
- `reverse`: run from the last token to the first. The state then enters at the
  last token and has its id.
- `method`: the form, see `jaxmodels.ops.engine.recurrence`. What "auto" takes is
  one table, `jaxmodels.ops.engine.method.AUTO`, with its measurements. "pallas"
  is for TPU, see `jaxmodels.ops.kernels`.
- `chunk_size`: tokens per chunk, a power of two; the default is in that table.
- `axis_name`: the mesh axis over which L is sharded, inside `jax.shard_map`, in
  equal shards. `initial_state` and the final state are those of the whole
  sequence, the same on every device: their specs leave the axis out.

The decay acts before a token is written, and y_t is read after it (before both,
where `linear_attention` has a bonus). No scale is hidden: scale q yourself. y has
the dtype of v (or of what the op reads and writes), and sums are in float32 or
wider. A shape, dtype or option that does not fit is a `ValueError` of one line
that names the op and the argument.

Arrays may be sharded over Auto or Explicit mesh axes (JAX's default) along the
batch and along heads or channels, and results are sharded likewise.
"""

import sys
from types import FunctionType

from jaxmodels.ops import families
from jaxmodels.ops.attention.attention import Cache, attention
from jaxmodels.ops.bidirectional import bidirectional
from jaxmodels.ops.convolution import causal_convolution
from jaxmodels.ops.delta_rule import delta_rule
from jaxmodels.ops.dense import dense_recurrence
from jaxmodels.ops.diagonal import diagonal_recurrence
from jaxmodels.ops.dplr import dplr_recurrence
from jaxmodels.ops.engine import segments
from jaxmodels.ops.engine.make_op import make_op
from jaxmodels.ops.householder import householder_product
from jaxmodels.ops.kalman.gaussian import Gaussian
from jaxmodels.ops.kalman.kalman import kalman_filter, kalman_smoother
from jaxmodels.ops.linear_attention import linear_attention
from jaxmodels.ops.long_convolution import long_convolution
from jaxmodels.ops.normalized import Normalized, normalized_linear_attention
from jaxmodels.ops.selective_scan import selective_scan

__all__ = [
  "Cache",
  "Gaussian",
  "Normalized",
  "attention",
  "bidirectional",
  "causal_convolution",
  "delta_rule",
  "dense_recurrence",
  "diagonal_recurrence",
  "dplr_recurrence",
  "families",
  "householder_product",
  "kalman_filter",
  "kalman_smoother",
  "linear_attention",
  "long_convolution",
  "make_op",
  "normalized_linear_attention",
  "segments",
  "selective_scan",
]

# A function hides the file of its name: `import jaxmodels.ops.delta_rule as d`
# gives the function, whatever stands in `sys.modules`. So it has all that its
# file defines: `d.FAMILY` is there for whoever means the file.
for _name in __all__:
  _op, _file = globals()[_name], sys.modules.get(f"{__name__}.{_name}")
  if isinstance(_op, FunctionType) and _file is not None:
    vars(_op).update({k: v for k, v in vars(_file).items() if k[0] != "_"})


def __dir__() -> list[str]:
  return __all__
