"""The cases of `benchmarks.peers`: an op or a mixer, its inputs, its peers."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import draws, in_jax, in_torch, jla, ours
from jaxmodels import ops
from jaxmodels.ops import reference

Inputs = Callable[[np.random.Generator, int, int], dict[str, np.ndarray]]
Peers = Mapping[str, Callable[[], Callable]]
JLA, DNT = "jax-linear-attention", "deltanet-tpu, plain JAX"


class Case(NamedTuple):
  """One op and its peers.

  Attributes:
    op: `(**inputs) -> outputs`, a pytree of arrays.
    inputs: `(rng, batch, length) -> dict` of arrays, which are run in float32.
    jax_peers: by name, `() -> function`; the function takes JAX arrays.
    torch_peers: the same for PyTorch tensors.
    definition: the same as `op`, token by token. By default it is `op` with
      `method="recurrent"`.
  """

  op: Callable[..., Any]
  inputs: Inputs
  jax_peers: Peers = types.MappingProxyType({})
  torch_peers: Peers = types.MappingProxyType({})
  definition: Callable[..., Any] | None = None

  def defined(self, **inputs: Any) -> Any:
    """What the outputs are, by the definition."""
    if self.definition is not None:
      return self.definition(**inputs)
    return self.op(**inputs, method="recurrent")


def _outputs(op, inputs, *peers):
  """A case without the state, which its peers do not return."""
  definition = ours.output(functools.partial(op, method="recurrent"))
  return Case(ours.output(op), inputs, *peers, definition=definition)


_WIDE = {"heads": 2, "width": 128}

CASES = {
  "Mamba-1": Case(
    ops.selective_scan,
    draws.selective,
    # Not the one of transformers: a loop in Python, whose gradient takes time
    # quadratic in the length.
    {JLA: jla.mamba1, "ejkernel": in_jax.ejkernel_selective},
  ),
  "Mamba-2": Case(
    ours.mamba2,
    draws.mamba2,
    {
      JLA: jla.mamba2,
      "mamba2-jax": in_jax.mamba2_jax_duality,
      "ejkernel": in_jax.ejkernel_duality,
    },
    {
      "fla-core": in_torch.fla_duality,
      "transformers": in_torch.transformers_duality,
    },
  ),
  "Mamba-2, one group": Case(
    ours.mamba2,
    functools.partial(draws.mamba2, groups=1),
    {
      JLA: in_jax.of_groups(jla.mamba2),
      "mamba2-jax": in_jax.of_groups(in_jax.mamba2_jax_duality),
      "ejkernel": in_jax.ejkernel_duality,
    },
  ),
  "Mamba-3": Case(
    ours.mamba3,
    draws.mamba3,
    {JLA: lambda: jla.mamba3(1), "mamba3-jax": in_jax.mamba3_jax},
  ),
  "Mamba-3, rank 4": Case(
    ours.mamba3,
    functools.partial(draws.mamba3, rank=4),
    {JLA: lambda: jla.mamba3(4)},
  ),
  "gated delta rule": Case(
    ops.delta_rule,
    draws.delta,
    {JLA: jla.op("gated_deltanet"), "ejkernel": in_jax.ejkernel_delta},
    {
      "fla-core": in_torch.fla_delta,
      "transformers": in_torch.transformers_delta,
    },
  ),
  "gated delta rule, 128 wide": Case(
    ops.delta_rule,
    functools.partial(draws.delta, **_WIDE),
    {JLA: jla.op("gated_deltanet"), DNT: in_jax.deltanet_tpu("gdn")},
  ),
  "DeltaNet": Case(
    ops.delta_rule,
    draws.ungated_delta,
    {JLA: jla.op("deltanet")},
    {"fla-core": in_torch.fla_ungated_delta},
  ),
  "DeltaProduct": Case(
    ops.householder_product, draws.products, {JLA: jla.delta_product}
  ),
  "KDA": Case(
    ops.delta_rule,
    draws.delta_per_key,
    {JLA: jla.op("kda"), "tokamax": in_jax.tokamax_delta_per_key},
    {"fla-core": in_torch.fla_delta_per_key},
  ),
  "KDA, 128 wide": Case(
    ops.delta_rule,
    functools.partial(draws.delta_per_key, **_WIDE),
    {
      JLA: jla.op("kda"),
      DNT: in_jax.deltanet_tpu("kda"),
      "tokamax": in_jax.tokamax_delta_per_key,
    },
  ),
  "gated delta rule 2": Case(
    ops.delta_rule, draws.delta_two_gates, {JLA: jla.op("gdn2", beta="b")}
  ),
  "gated delta rule 2, 128 wide": Case(
    ops.delta_rule,
    functools.partial(draws.delta_two_gates, **_WIDE),
    {JLA: jla.op("gdn2", beta="b"), DNT: in_jax.deltanet_tpu("gdn2")},
  ),
  "GLA": Case(ops.linear_attention, draws.decay_per_key, {JLA: jla.op("gla")}),
  "HGRN2": Case(ours.hgrn2, draws.hgrn2, {JLA: jla.hgrn2}),
  "RWKV-6": _outputs(
    ops.linear_attention,
    draws.rwkv6,
    {JLA: jla.rwkv6},
    {"fla-core": in_torch.fla_rwkv6},
  ),
  "RWKV-7": Case(
    ops.dplr_recurrence,
    draws.rwkv7,
    {JLA: jla.rwkv7},
    {"fla-core": in_torch.fla_dplr},
  ),
  "mLSTM": Case(
    ops.normalized_linear_attention,
    draws.gates,
    {JLA: jla.mlstm, "mlstm_kernels": in_jax.mlstm_chunkwise},
    {"mlstm_kernels, torch": in_torch.mlstm_chunkwise_torch},
  ),
  "linear attention": _outputs(
    ops.linear_attention,
    draws.qkv,
    {JLA: jla.linear},
    {"fla-core": in_torch.fla_linear},
  ),
  "RetNet, Lightning": Case(
    ours.lightning,
    draws.qkv,
    {JLA: jla.lightning},
    {"fla-core": in_torch.fla_decay_per_head},
  ),
  "log-linear attention": Case(
    lambda **inputs: ours.log_linear(**inputs)[0],
    draws.levels,
    {JLA: jla.log_linear},
    # Token by token, the states of all levels would need 6 GiB in float64.
    definition=lambda **inputs: ours.log_linear("chunked", **inputs)[0],
  ),
  "TTT-linear": Case(ours.test_time, draws.test_time, {JLA: jla.test_time}),
  "RG-LRU": Case(
    ops.diagonal_recurrence,
    draws.diagonal,
    {
      "recurrentgemma, linear": in_jax.recurrentgemma("LINEAR_NATIVE"),
      "recurrentgemma, associative": in_jax.recurrentgemma(
        "ASSOCIATIVE_NATIVE"
      ),
    },
  ),
  "LRU, S5": Case(
    ours.complex_diagonal,
    draws.complex_diagonal,
    {"discretax": in_jax.discretax_diagonal},
  ),
  "Mesa": Case(
    ops.mesa, draws.delta, {}, {"fla-core": in_torch.fla_mesa}, reference.mesa
  ),
  "short convolution": _outputs(
    ops.causal_convolution,
    draws.convolution,
    {JLA: jla.convolution},
    {"torch": in_torch.torch_convolution},
  ),
  "softmax attention": Case(
    ours.output(ops.attention),
    draws.qkv,
    {
      "jax.nn": in_jax.jax_attention,
      "tokamax": in_jax.tokamax_attention,
    },
    {"torch": in_torch.torch_attention},
    ours.all_scores,
  ),
}


def _hard(names, words, change, without=()):
  """Cases by name whose errors are measured with other inputs."""
  found = {}
  for name in names:
    case = CASES[name]
    peers = {n: peer for n, peer in case.jax_peers.items() if n not in without}
    found[f"{name}, {words}"] = case._replace(
      inputs=change(case.inputs), jax_peers=peers, torch_peers={}
    )
  return found


# Only their errors are measured. Short, because they grow with equal keys.
HARD_LENGTH = 512
_DELTA = "gated delta rule", "KDA, 128 wide"
HARD = _hard(
  (*_DELTA, "gated delta rule 2, 128 wide", "GLA", "RWKV-7", "mLSTM"),
  "log decays of -20 or -0.01",
  draws.mixed_decays,
  without=("tokamax",),  # Its decays are at least exp(-5).
) | _hard(
  _DELTA,
  "equal keys, beta 2",
  draws.equal_keys,
)
