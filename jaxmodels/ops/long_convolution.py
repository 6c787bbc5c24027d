"""Long causal convolution by FFT, for time-invariant state-space models.

A linear recurrence that is the same at every token is a convolution with its
impulse response, `kernel_j = C a^j B` (LSSL, Gu et al. 2021,
arXiv:2110.13985; S4, Gu et al. 2022, arXiv:2111.00396), and a convolution of
L tokens costs O(L log L).
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
  the reverse of `causal_convolution`, whose kernels are taps. The FFT is
  twice as long as needed, so that nothing wraps around, and in float32 or
  wider. Its error is relative to the largest output of a channel, not to
  each.

  Cost: about 30 log2(2 L) flops a number of x, of three transforms.

  There is no state and no `segment_ids`: the tokens before are zeros. A
  state-space model that needs those runs the recurrence itself, such as
  `diagonal_recurrence`; what an initial state h adds is `C a^{t+1} h`.

  Args:
    x: [..., L, D] real.
    kernel: [W, D] real; taps beyond L are not used.
    reverse: run from the last token to the first.
    axis_name: mesh axis over which L is sharded, inside `shard_map`. Every
      device gathers all tokens, as softmax attention does; a recurrence
      gathers but its states.

  Returns:
    y [..., L, D] in the dtype of x.

  Raises:
    ValueError: a shape or dtype does not fit; names the argument.
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
  size = 1 << (2 * length - 1).bit_length()  # Powers of two are fastest.
  with jax.named_scope(op):
    inputs = jnp.flip(x, -2) if reverse else x
    spectrum = jnp.fft.rfft(kernel[:length].astype(dtype), size, axis=0)
    spectrum = jnp.expand_dims(spectrum, range(x.ndim - 2))
    product = jnp.fft.rfft(inputs.astype(dtype), size, axis=-2) * spectrum
    y = jnp.fft.irfft(product, size, axis=-2)[..., :length, :]
    y = (jnp.flip(y, -2) if reverse else y).astype(x.dtype)
  checks.finite(op, y=y)
  return y
