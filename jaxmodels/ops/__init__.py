"""Recurrences: arrays in, arrays out. No parameters, no Flax.

Letters used in every shape:
  "..." any number of batch axes, none included; B one batch axis; L length;
  H heads; h heads of q and k; K key width; V value width; D model width;
  N state width; C tokens per chunk; W width of a convolution; G blocks. An op
  that has another letter, such as M, explains it in its docstring.

Conventions of every op that has a state:
  - It is called as `op(..., initial_state=None, *, segment_ids=None,
    reverse=False, method="auto", chunk_size=None, axis_name=None)` and returns
    `(y, final_state)`.
  - The decay acts before a token is written, and y_t reads the state after the
    token. (With a bonus, `linear_attention` reads the state before both.)
  - No op scales q or k. The caller scales q.
  - A sequence that is cut anywhere, and continued from `final_state`, gives
    the results of the uncut sequence.

Arguments that ops share:
  - `q`, `k` [..., L, h, K] and `v` [..., L, H, V]. In `linear_attention`,
    `delta_rule`, `dplr_recurrence` and `normalized_linear_attention`, q and k
    (and a, b of `dplr_recurrence`) may have fewer heads than v: h divides H,
    and head i of v reads head `i // (H / h)` of q and k. These are the groups
    of Mamba-2 and of grouped value attention. No form stores a repeated
    sequence, and what depends on shared heads alone, such as `q_i . k_j`, is
    computed once per shared head. "recurrent" repeats them one token at a
    time, and "pallas" computes per head of v.
    All other arguments, and the state, have H heads.
  - `initial_state`: the state before the first token, in the shape that the
    op's docstring gives. None, the default, is zero.
  - `segment_ids`: [..., L] integers; None, the default, is one segment that
    continues `initial_state`. A segment is a run of equal ids along L. Each
    change of the id resets the state, even if the new id occurred earlier.
    Ids are any integers, such as 0 or -1 for padding. `initial_state` has id
    0: a first token of id 0 continues it, and any other id starts from zero,
    so `cumsum(resets)` resets at the first token too. `segments` makes ids: of
    documents in one row (`from_cu_seqlens`), of resets (`from_resets`), and of
    the rest of a sequence that was cut (`continue_ids`).
  - `reverse`: whether to run from the last token to the first; False by
    default. `initial_state` then enters at the last token and has its id.
  - `method`: the form of the computation. All forms give the same results up
    to rounding; `jaxmodels.ops.engine.recurrence` describes them:
    "recurrent", "associative", "chunked", "chunk_parallel", and, for
    `linear_attention`, `normalized_linear_attention` without a bonus,
    `delta_rule`, `householder_product`, `dplr_recurrence` and
    `selective_scan`, "pallas" (see `jaxmodels.ops.kernels`). "auto", the
    default, is "recurrent" for one token. For more tokens it is a row of the
    table `AUTO` in `jaxmodels.ops.engine.auto`, which depends on the
    platform, on the key width, and on whether a gradient is computed. On a
    TPU it is "pallas" for these ops; kernels have gradients of the first
    order in reverse mode only, so name "chunked" for others.
  - `chunk_size`: tokens per chunk, a power of two. None, the default, takes
    the size from the same table. "recurrent" and "associative" do not use it.
  - `axis_name`: the mesh axis over which L is sharded; None by default. Call
    the op inside `jax.shard_map`, with shards of equal length. `initial_state`
    and `final_state` are those of the whole sequence, the same on every
    device, so their partition specs leave the axis out. An argument without a
    length axis is whole on every device too.

Results that ops share:
  - y has the dtype of v; of b in `diagonal_recurrence` and `dense_recurrence`;
    of dx in `signature`; of x in `selective_scan`, `state_space` and the
    convolutions.
  - The state is float32 or wider (complex64 or wider if complex), and is
    exactly what the op takes back as `initial_state`. Sums are float32 or
    wider as well.
  - Matrix products of float32 have JAX's precision for the platform. On a TPU
    and a GPU that is less than float32: an H200 rounds their factors to TF32,
    and y is off by 4e-4. In `with jax.default_matmul_precision("highest"):`
    all products are float32, and y is off by 2e-7 (relative errors, 200
    tokens). Decays and the inverses of the delta rule are always more precise.
  - A `ValueError` says which argument has a wrong shape, dtype or value of an
    option, what it got and what it must be. Numbers, such as log decays above
    0, are checked if `jaxmodels.ops.engine.checks.numerics` is switched on.

Ops that deviate:
  - `attention` and `causal_convolution` have forms of their own, and their
    states are past tokens: a `Cache`, and the last W - 1 inputs.
  - `diagonal_recurrence` has exactly one batch axis, B.
  - The state of `log_linear_attention` counts tokens too.
  - `ttt_linear` has only the forms "recurrent" and "chunked", and no
    `axis_name`.
  - In `householder_product`, `chunk_size` counts steps; a token has M steps.
  - `bidirectional` has no state and no `reverse`. `long_convolution` has no
    state, no `segment_ids`, no `method` and no `chunk_size`.
  - `kalman_filter` and `kalman_smoother` have other arguments and results.
  - An op of `make_op` takes `initial_state` by name, and its y is float32 or
    wider unless `make_op` is called with `like`.

Meshes: arrays may be sharded over Auto or Explicit mesh axes (JAX's default)
along the batch and along heads or channels, and results are sharded likewise.
Only L needs `jax.shard_map` and `axis_name`.
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
from jaxmodels.ops.log_linear import LogLinear, log_linear_attention
from jaxmodels.ops.long_convolution import long_convolution
from jaxmodels.ops.mesa import Mesa, mesa
from jaxmodels.ops.normalized import Normalized, normalized_linear_attention
from jaxmodels.ops.selective_scan import selective_scan
from jaxmodels.ops.signature import signature
from jaxmodels.ops.state_space import state_space
from jaxmodels.ops.ttt import TTT, ttt_linear

__all__ = [
  "TTT",
  "Cache",
  "Gaussian",
  "LogLinear",
  "Mesa",
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
  "log_linear_attention",
  "long_convolution",
  "make_op",
  "mesa",
  "normalized_linear_attention",
  "segments",
  "selective_scan",
  "signature",
  "state_space",
  "ttt_linear",
]

# An op hides the file of the same name: `import jaxmodels.ops.delta_rule as d`
# gives the function, not the module. So the function gets the public names of
# its file as attributes, and `d.FAMILY` works.
for _name in __all__:
  _op, _file = globals()[_name], sys.modules.get(f"{__name__}.{_name}")
  if isinstance(_op, FunctionType) and _file is not None:
    vars(_op).update({k: v for k, v in vars(_file).items() if k[0] != "_"})


def __dir__() -> list[str]:
  return __all__
