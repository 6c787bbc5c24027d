"""FSMN: dilated depthwise memories with dense connections, and a gate."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import causal_convolution

__all__ = ["FSMN"]


class FSMN(Mixer):
  """A gated memory block of dilated depthwise convolutions.

  With x_t the input, per channel:

    m^0_t = W_2 ReLU(W_1 x_t)
    m^i_t = SiLU(sum_{j<i} sum_{s<W} a^{ij}_s m^j_{t - s d_i})
    y_t = W_o (W_g x_t * (m^0_t + m^n_t)),  d_i = 2^(i-1),  i = 1, ..., n

  The memory is that of the feedforward sequential memory network, where taps
  replace recurrence (Zhang et al. 2015, arXiv:1512.08301). The gate, the
  dilations and the dense connections are those of MossFormer2 (Zhao et al.
  2023, arXiv:2312.11825). Departures: causal, so that it decodes, where the
  paper's memories look ahead too; SiLU in place of instance norm and PReLU;
  LeCun initialisation.

  The other fields are those of `Mixer`; `method` and `chunk_size` have no
  effect. The state is a tuple with one array [B, (W - 1) d_i, D i] per layer of
  memory.

  Attributes:
    layers: n, the number of layers of memory.
    kernel_width: W, the number of tokens that one memory reads.
  """

  layers: int = 2
  kernel_width: int = 8

  def mix(
    self,
    x: jax.Array,
    state: tuple[jax.Array, ...] | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The equation above."""
    check_fields(self, "layers", "kernel_width")
    hidden = nn.relu(self.dense("hidden", self.width)(x))
    memories, after = [self.dense("memory", self.width)(hidden)], []
    for i in range(1, self.layers + 1):
      known = jnp.concatenate(memories, -1)
      kernel = self._kernel(f"taps_{i}", known.shape[-1], 2 ** (i - 1))
      read, last = causal_convolution(
        known,
        kernel,
        None if state is None else state[i - 1],
        segment_ids=segment_ids,
        reverse=self.reverse,
        axis_name=self.axis_name,
      )
      parts = read.reshape((*read.shape[:-1], i, self.width))
      memories.append(nn.silu(jnp.sum(parts, -2)))
      after.append(last)
    gate = self.dense("gate", self.width)(x)
    return self.project_out(gate * (memories[0] + memories[-1])), tuple(after)

  @nn.nowrap
  def _kernel(self, name: str, channels: int, dilation: int) -> jax.Array:
    """Taps with zeros between them: [(W - 1) dilation + 1, channels]."""
    init = nn.initializers.normal(
      (self.kernel_width * channels / self.width) ** -0.5
    )
    shape = (self.kernel_width, channels)
    taps = self.param(name, init, shape, self.param_dtype).astype(self.dtype)
    spread = jnp.zeros(
      ((self.kernel_width - 1) * dilation + 1, channels), self.dtype
    )
    return spread.at[::dilation].set(taps)
