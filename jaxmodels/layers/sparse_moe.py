"""Sparse mixture of experts: each token uses a few of many MLPs."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, projection
from jaxmodels.layers.experts import map_by_experts
from jaxmodels.layers.mlp import MLP, ChannelMixer, GatedMLP, activation_of
from jaxmodels.layers.routing import Router, route
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import run_by_letters

__all__ = ["SparseMoE"]


class SparseMoE(ChannelMixer):
  """The weighted sum of the top_k of E MLPs (experts), by default gated.

  g = top_k of softmax(W_r x), divided by their sum, 0 elsewhere
  y = sum_e g_e W_o^e (SiLU(W_g^e x) * W_v^e x)

  Shazeer et al. 2017, arXiv:1701.06538, with the normalised weights of Mixtral
  (Jiang et al. 2024, arXiv:2401.04088) and the load-balance loss of Switch
  Transformers, which the layer sows: `layers.routing.route`. No token is
  dropped: the choices of all tokens are sorted by expert, and each expert maps
  its own rows (Gale et al. 2022, "MegaBlocks", arXiv:2211.15841), see
  `layers.experts`. On a CPU with a gradient, XLA multiplies all rows by the
  weights of all experts instead.

  Options: other routers, see `layers.routing.Router`. A shared expert is an MLP
  that every token uses with weight 1 (Dai et al. 2024, "DeepSeekMoE",
  arXiv:2401.06066), or with weight sigmoid(w . x) (Qwen3-Next). Experts without
  a gate compute W_o act(W_i x). With a latent width, the experts map W_l x, and
  W_u maps their sum back to D (Nemotron-H).

  Attributes:
    width: D.
    hidden: Hidden width of each expert, or None for that of `GatedMLP`.
    output_scale: Factor on the initial weights of the output projections.
    dtype: The dtype of the computation; the router is float32 or wider.
    param_dtype: The dtype of the parameters.
    experts: E.
    top_k: The number of experts per token.
    balance_loss: Factor on the load-balance loss.
    router: "softmax" or "sigmoid", the scores of the experts.
    normalize: Whether the weights are divided by their sum.
    normalize_epsilon: Added to that sum.
    routed_scale: Factor on the weights.
    router_bias: Whether a bias [E] is added to the scores for the choice only.
    groups: The groups of experts, see `Router`.
    top_groups: The groups that a token chooses from; None for all.
    activation: Of all experts, a name of `layers.mlp.ACTIVATIONS`.
    gated: Whether the experts, and the shared one, are gated.
    shared_hidden: Hidden width of the shared expert; None for no such expert.
    shared_gate: Whether the shared expert has the weight sigmoid(w . x).
    latent: Width of the inputs and outputs of the experts, or None for D.
    use_bias: Whether the shared expert, W_l and W_u have biases.
  """

  experts: int = 8
  top_k: int = 2
  balance_loss: float = 0.01
  router: str = "softmax"
  normalize: bool = True
  normalize_epsilon: float = 0.0
  routed_scale: float = 1.0
  router_bias: bool = False
  groups: int = 1
  top_groups: int | None = None
  activation: str = "silu"
  gated: bool = True
  shared_hidden: int | None = None
  shared_gate: bool = False
  latent: int | None = None
  use_bias: bool = False

  @nn.nowrap
  def _map(self, x: jax.Array) -> jax.Array:
    check_fields(
      self, "experts", "top_k", "groups", "top_groups", "shared_hidden",
      "latent",
    )  # fmt: skip
    checks.require(
      self.shared_hidden is not None or not self.shared_gate,
      "SparseMoE: shared_gate is for a shared expert: set shared_hidden too",
    )
    routed = self._routed(x)
    if self.shared_hidden is None:
      return routed
    kind = GatedMLP if self.gated else MLP
    shared, _ = kind(
      self.width,
      self.shared_hidden,
      self.output_scale,
      self.dtype,
      self.param_dtype,
      activation=self.activation,
      use_bias=self.use_bias,
      name="shared",
    )(x)
    if self.shared_gate:
      shared = shared * nn.sigmoid(projection(self, 1, "shared_gate")(x))
    return routed + shared

  @nn.nowrap
  def _routed(self, x: jax.Array) -> jax.Array:
    """The weighted sum of the chosen experts of x [B, L, D]."""
    router = Router(
      self.router,
      self.normalize,
      self.normalize_epsilon,
      self.routed_scale,
      self.router_bias,
      self.groups,
      self.top_groups,
    )
    routes = route(self, x, self.experts, self.top_k, self.balance_loss, router)
    x = jnp.asarray(x, self.dtype)
    if self.latent is not None:
      x = self._dense("latent_input", self.latent)(x)
    arrays = {
      "x": x,
      "chosen": routes.chosen,
      "weights": routes.weights.astype(self.dtype),
      **self._kernels(x.shape[-1]),
    }
    letters = {
      "x": "B L D",
      "chosen": "B L K",
      "weights": "B L K",
      "gate": "E D F",
      "value": "E D F",
      "input": "E D F",
      "output": "E F D",
    }
    activation = activation_of(self)
    y = run_by_letters(
      "sparse_moe",
      lambda arrays: _mix(activation, **arrays),
      arrays,
      {name: letters[name] for name in arrays},
      "B L D",
    )
    if self.latent is None:
      return y
    return self._dense("latent_output", self.width, self.output_scale)(y)

  @nn.nowrap
  def _dense(self, name: str, features: int, scale: float = 1.0) -> nn.Dense:
    return projection(self, features, name, scale=scale, use_bias=self.use_bias)

  @nn.nowrap
  def _kernels(self, width: int) -> dict[str, jax.Array]:
    """The weights of the experts, which map vectors of a width."""
    hidden = self.gated_width()

    def kernel(name: str, inputs: int, outputs: int, scale: float = 1.0):
      init = nn.initializers.variance_scaling(
        scale**2, "fan_in", "truncated_normal", batch_axis=(0,)
      )
      shape = (self.experts, inputs, outputs)
      return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

    into = ("gate", "value") if self.gated else ("input",)
    scale = self.output_scale if self.latent is None else 1.0
    return {
      **{name: kernel(name, width, hidden) for name in into},
      "output": kernel("output", hidden, width, scale),
    }


def _mix(
  activation: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  chosen: jax.Array,
  weights: jax.Array,
  **kernels: jax.Array,
) -> jax.Array:
  """Sorts the choices by expert, maps them, and adds them up by token."""
  top_k = chosen.shape[-1]
  tokens, expert = x.reshape(-1, x.shape[-1]), chosen.reshape(-1)
  order = jnp.argsort(expert, stable=True)
  rows = tokens[order // top_k]
  mapped = map_by_experts(activation, rows, expert[order], kernels)
  mapped = mapped * weights.reshape(-1)[order][:, None]
  y = jnp.zeros_like(tokens).at[order // top_k].add(mapped)
  return y.reshape(x.shape)
