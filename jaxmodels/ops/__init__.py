"""Recurrences: arrays in, arrays out. No parameters, no Flax.

Letters used in every shape:
  B batch (leading batch axes may be several), L length, H heads,
  K key width, V value width, D model width, N state width,
  C tokens of a chunk, W width of a convolution, G blocks, and M what else an
  op has several of, as its docstring says.

Conventions of every op that has a state (`bidirectional`, `long_convolution`
and the Kalman scans have their own, said in their docstrings):
  - `op(..., initial_state=None, *, segment_ids=None, reverse=False,
    method="auto", chunk_size=None, axis_name=None) -> (y, final_state)`.
  - The decay acts before a token is written; y_t is read after it (before
    both, where `linear_attention` has a bonus); no scale is hidden.
  - The state is float32 or wider, and exactly what the op takes back: a
    sequence cut anywhere and continued equals the uncut one.
  - A segment is a run of equal segment ids along L: each change of the id
    resets the state, also to an id that was there before. Ids are any
    integers, such as 0 or -1 for padding. The state that enters has id 0: a
    first token of id 0 continues it, any other id starts afresh, so
    `cumsum(resets)` resets at the first token too. With `reverse` the state
    enters at the last token and has its id. `segments` makes ids: of documents
    in one row (`from_cu_seqlens`), of resets (`from_resets`), and of what is
    left of a sequence that was cut (`continue_ids`).

Meshes: arrays may be cut over Auto or Explicit mesh axes (JAX's default) along
the batch and along heads or channels, and results are cut likewise. Where L is
cut, call the op inside `jax.shard_map` and name the mesh axis by `axis_name`.
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
