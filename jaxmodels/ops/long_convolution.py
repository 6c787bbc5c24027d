"""Long causal convolution by FFT, for time-invariant state-space models.

A linear recurrence with the same coefficients at every token is a convolution
with its impulse response, `kernel_j = C a^j B` (LSSL, Gu et al. 2021,
arXiv:2110.13985; S4, Gu et al. 2022, arXiv:2111.00396). A convolution of L
tokens costs O(L log L).
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.checks import require_length
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.platform import wide


@by_letters("... L D", x="... L D", kernel="W D")
def long_convolution(
  x: jax.Array,
  kernel: jax.Array,
  *,
  reverse: bool = False,
  axis_name: str | None = None,
) -> jax.Array:
  """Convolves every channel with its own kernel over the whole past.

      y_t[d] = sum_{j=0}^{min(t, W - 1)} kernel[j, d] x_{t-j}[d]

  `kernel[0]` multiplies the present token: the order of an impulse response,
  and the reverse of the order in `causal_convolution`. The FFT has at least
  twice the length of the sequence, so the ends do not wrap around. It runs in
  float32 or wider. Its rounding error is relative to the largest output of a
  channel, not to each output.

  Cost: about 30 log2(2 L) flops per element of x, for three transforms.

  There is no state and no `segment_ids`: inputs before the first token are
  zero. A state-space model that needs a state or segments runs its recurrence,
  such as `diagonal_recurrence`. (An initial state h adds `C a^{t+1} h` to y_t.)
  `reverse`: see `jaxmodels.ops`.

  Args:
    x: [..., L, D] real.
    kernel: [W, D] real; taps beyond L are not used.
    axis_name: mesh axis over which L is sharded, inside `jax.shard_map`. Every
      device gathers all tokens, whereas a recurrence gathers only states.

  Returns:
    y [..., L, D].
  """
  op = "long_convolution"
  x, kernel = arrays(op, x=x, kernel=kernel)
  length = checks.arguments(op, x=(x, "... L D"), kernel=(kernel, "W D"))["L"]
  checks.floating(op, x=x, kernel=kernel)
  checks.finite(op, x=x, kernel=kernel)
  if length == 0 or kernel.shape[0] == 0:
    return jnp.zeros_like(x)
  if axis_name is not None:
    whole = halo.gather(x, x.ndim - 2, axis_name, reverse=False)
    y = long_convolution(whole, kernel, reverse=reverse)
    own = lax.axis_index(axis_name) * length
    return lax.dynamic_slice_in_dim(y, own, length, axis=-2)
  dtype = wide(x, kernel)
  require_length(
    op, length, "its FFT", "a recurrence, such as diagonal_recurrence"
  )
  size = 1 << (2 * length - 1).bit_length()  # FFTs of 2^n points are fastest.
  with jax.named_scope(op):
    inputs = jnp.flip(x, -2) if reverse else x
    spectrum = jnp.fft.rfft(kernel[:length].astype(dtype), size, axis=0)
    spectrum = jnp.expand_dims(spectrum, range(x.ndim - 2))
    product = jnp.fft.rfft(inputs.astype(dtype), size, axis=-2) * spectrum
    y = jnp.fft.irfft(product, size, axis=-2)[..., :length, :]
    y = (jnp.flip(y, -2) if reverse else y).astype(x.dtype)
  checks.finite(op, y=y)
  return y
