"""A mixer behind a transformer block whose weights several layers share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, divide
from jaxmodels.layers.gates import low_rank
from jaxmodels.layers.mlp import activation_of
from jaxmodels.layers.norms import RMSNorm
from jaxmodels.layers.products import dense_product
from jaxmodels.mixers import contract
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.mixers.registry import Entry, make_module
from jaxmodels.mixers.softmax_attention import (
  SoftmaxAttention,
  SoftmaxAttentionState,
)
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import run_by_letters
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["SharedBlock", "SharedBlockState"]

Arrays = Mapping[str, jax.Array]


@serializable
class SharedBlockState(NamedTuple):
  """The state of the attention, and that of the inner mixer."""

  attention: SoftmaxAttentionState
  inner: Any


class SharedBlock(Mixer):
  """A mixer behind a transformer block whose weights several layers share.

  With e the stream before the first layer of the stack:

    a = Attention(N_1 [x, e])                                 2 D to D channels
    m = W_o (GELU(W_g N_2 a) * W_v N_2 a)
    y = inner(N_3 (x + W m))

  Zamba (Glorioso et al. 2024, arXiv:2405.16712) and Zamba2 (Glorioso et al.
  2024, arXiv:2411.15242). Layers with the same `block` share N_1, N_2 and the
  weights of the attention and of m; W, N_3 and the inner mixer are their own.
  In Zamba2 each layer adds a low-rank product of its own, an adapter, to W_g
  and W_v, and with `attention_adapters` also to the projections to queries,
  keys and values. The scale of the scores is by default sqrt(2 / K), as for
  heads of half of their width K.

  x must be the stream itself, so the layout of such a layer is "no_norm". The
  stack holds the shared weights, under names such as "shared_block_0_query".
  Outside of a stack e is x, and the mixer holds them. The other fields are
  those of `Mixer`; `norm_epsilon` is that of the three norms.

  Attributes:
    inner: The inner mixer: a name of `MIXERS`, or a name with options.
    block: Which of the shared blocks this layer uses: 0, 1, ...
    attention: Fields of the attention that differ from the defaults of a
      `SoftmaxAttention` of width 2 D. Zamba has a `rotary_fraction` of 0.
    hidden: The width of W_g and W_v, 4 D by default.
    activation: A name of `jaxmodels.layers.mlp.ACTIVATIONS`, in place of GELU.
    use_bias: Whether W_g, W_v and W_o have a bias.
    adapter_rank: The rank of the adapters; None for none.
    attention_adapters: Whether queries, keys and values have adapters too.
  """

  inner: Entry = "mamba2"
  block: int = 0
  attention: Mapping[str, Any] = nn.FrozenDict()
  hidden: int | None = None
  activation: str = "gelu"
  use_bias: bool = False
  adapter_rank: int | None = None
  attention_adapters: bool = False

  def mix(
    self,
    x: jax.Array,
    state: SharedBlockState | None,
    segment_ids: jax.Array | None,
    *,
    shared: Any = None,
  ) -> tuple[Any, ...]:
    """The equation above; `shared` holds e and the shared weights."""
    check_fields(self, "hidden", "adapter_rank")
    values = self.init_shared(x, 1, self._own) if shared is None else shared
    x = x.astype(self.dtype)
    own = f"block_{self.block}_"
    weights = {name: values[own + name] for name in self._shapes()}
    both = jnp.concatenate([x, values["embedding"].astype(x.dtype)], -1)
    a, attention = self._attention(weights)(
      self._normed(weights["input_norm"], both),
      None if state is None else state.attention,
      segment_ids=segment_ids,
    )
    m = self._mlp(weights, self._normed(weights["mlp_norm"], a))
    y, inner = contract.mix(
      self.inner_module().clone(parent=self, name="inner_mixer"),
      self.new_norm("inner_norm")(x + self.dense("link", self.width)(m)),
      None if state is None else state.inner,
      segment_ids,
    )
    after = SharedBlockState(attention, inner)
    return (y, after) if shared is None else (y, after, shared)

  def init_shared(
    self, x: jax.Array, depth: int, param: Callable[..., jax.Array]
  ) -> dict[str, jax.Array]:
    """The stream before the first layer, and the weights of the block."""
    del depth
    matrix = nn.initializers.lecun_normal()

    def made(name: str, shape: tuple[int, ...]) -> jax.Array:
      init = matrix
      if len(shape) == 1:
        norm = name.endswith("norm")
        init = nn.initializers.ones if norm else nn.initializers.zeros
      return param(f"block_{self.block}_{name}", init, shape)

    weights = {
      f"block_{self.block}_{name}": made(name, shape)
      for name, shape in self._shapes().items()
    }
    return {"embedding": x, **weights}

  def init_state(self, batch_size: int) -> SharedBlockState:
    """The zero states of the attention and of the inner mixer."""
    state = super().init_state(batch_size)
    return state._replace(
      inner=contract.zero_state(self.inner_module(), batch_size)
    )

  @nn.nowrap
  def _own(self, name: str, init: Any, shape: tuple[int, ...]) -> jax.Array:
    """A weight that a stack would share, outside of a stack."""
    return self.param(f"shared_{name}", init, shape, self.param_dtype)

  @nn.nowrap
  def _shapes(self) -> dict[str, tuple[int, ...]]:
    """The shapes of the shared weights by name."""
    width, hidden = self.width, self.hidden or 4 * self.width
    heads, kv_heads, head_width = self._heads()
    biases = {
      "mlp_gate_bias": (hidden,),
      "mlp_value_bias": (hidden,),
      "mlp_output_bias": (width,),
    }
    return {
      "input_norm": (2 * width,),
      "query": (2 * width, heads * head_width),
      "key": (2 * width, kv_heads * head_width),
      "value": (2 * width, kv_heads * head_width),
      "output": (heads * head_width, width),
      "mlp_norm": (width,),
      "mlp_gate": (width, hidden),
      "mlp_value": (width, hidden),
      "mlp_output": (hidden, width),
      **(biases if self.use_bias else {}),
    }

  @nn.nowrap
  def inner_module(self) -> Any:
    """The inner mixer, not bound to a scope."""
    common = {"width": self.width, "output_scale": self.output_scale}
    return make_module("mixer", self.inner, {}, common | self._common())

  @nn.nowrap
  def _common(self) -> dict[str, Any]:
    """The fields that the attention and the inner mixer share with this one."""
    names = ["reverse", "dtype", "param_dtype"]
    if self.axis_name is not None:
      names.append("axis_name")
    return {name: getattr(self, name) for name in names}

  @nn.nowrap
  def _attention(self, weights: Arrays) -> "_SharedAttention":
    """The attention with the shared weights, in the scope of this mixer."""
    _, _, head_width = self._heads()
    fields = {
      "scale": (head_width / 2) ** -0.5,
      **self._common(),
      **self.attention,
    }
    return _SharedAttention(
      2 * self.width,
      weights=weights,
      adapter_rank=self.adapter_rank if self.attention_adapters else None,
      name="attention",
      **fields,
    )

  @nn.nowrap
  def _heads(self) -> tuple[int, int, int]:
    """H, the number of key and value heads, and K."""
    given: Any = self.attention
    made = SoftmaxAttention(2 * self.width, **given, parent=None)
    checks.require(
      not (made.qkv_bias or made.output_bias or made.gate),
      "SharedBlock: attention must have neither biases nor a gate, got "
      f"{dict(given)}",
    )
    head_width = made.head_width or divide(made, "heads", made.width, "2 D")
    return made.heads, made.kv_heads or made.heads, head_width

  @nn.nowrap
  def _normed(self, scale: jax.Array, x: jax.Array) -> jax.Array:
    """RMSNorm with a shared scale."""
    norm = RMSNorm(self.norm_epsilon, dtype=self.dtype, parent=None)
    y: Any = norm.apply({"params": {"scale": scale}}, x)
    return y

  @nn.nowrap
  def _mlp(self, weights: Arrays, x: jax.Array) -> jax.Array:
    """The gated MLP of normed x [B, L, D], with the adapter of this layer."""
    hidden = weights["mlp_gate"].shape[1]
    gate, value = (
      _product(x, weights, name) for name in ("mlp_gate", "mlp_value")
    )
    if self.adapter_rank is not None:
      names = ("mlp_down", "mlp_up")
      scales = (1.0, 0.0)
      added = low_rank(
        self, x, self.adapter_rank, 2 * hidden, names, scales=scales
      ).astype(x.dtype)
      gate, value = gate + added[..., :hidden], value + added[..., hidden:]
    return _product(activation_of(self)(gate) * value, weights, "mlp_output")


class _SharedAttention(SoftmaxAttention):
  """Softmax attention whose kernels are given, and its adapters are not.

  Attributes:
    weights: The kernels "query", "key", "value" and "output".
    adapter_rank: The rank of the adapters of the first three; None for none.
  """

  weights: Arrays = nn.FrozenDict()
  adapter_rank: int | None = None

  @nn.nowrap
  def dense(self, name: str, features: int, **options: Any) -> Any:
    """A product with a given kernel, which alone knows the output width."""
    del options

    def apply(x: jax.Array) -> jax.Array:
      y = _product(x, self.weights, name)
      if self.adapter_rank is None or name == "output":
        return y
      names = (f"{name}_down", f"{name}_up")
      added = low_rank(
        self, x, self.adapter_rank, features, names, scales=(1.0, 0.0)
      )
      return y + added.astype(y.dtype)

    return apply


def _product(x: jax.Array, weights: Arrays, name: str) -> jax.Array:
  """The product of x [B, L, F] and a shared kernel, plus its bias if any."""
  y = run_by_letters(
    "shared_block",
    lambda arrays: dense_product(arrays["x"], arrays["kernel"]),
    {"x": x, "kernel": weights[name].astype(x.dtype)},
    {"x": "B L D", "kernel": "D F"},
    "B L F",
  )
  bias = weights.get(f"{name}_bias")
  return y if bias is None else y + bias.astype(y.dtype)[None, None]
