"""The mixers once more, from their papers: numpy, float64, loops over tokens.

Each takes the parameters of the layer as a nested dict, one document
x [L, D] and the layer, of which it reads sizes and options only.
"""

import numpy as np


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def silu(x):
  return x * sigmoid(x)


def softplus(x):
  return np.log1p(np.exp(x))


def gelu(x):
  return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def rms(x, scale, epsilon=1e-6):
  return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * scale


def unit(x):
  return x / np.sqrt(np.sum(x * x, -1, keepdims=True) + 1e-6)


def dense(p, x):
  return x @ p["kernel"] + p.get("bias", 0)


def convolve(p, x):
  width = p["kernel"].shape[0]
  padded = np.concatenate([np.zeros((width - 1, x.shape[1])), x])
  y = [(padded[t : t + width] * p["kernel"]).sum(0) for t in range(len(x))]
  return silu(np.stack(y) + p.get("bias", 0))


def gla(p, x, layer):
  heads = layer.heads
  q, k, v, gate = (
    dense(p[name], x).reshape(len(x), heads, -1)
    for name in ("query", "key", "value", "output_gate")
  )
  a = sigmoid(dense(p["decay_up"], dense(p["decay_down"], x))) ** (1 / 16)
  a = a.reshape(k.shape)
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      memory = a[t, h][:, None] * memory + np.outer(k[t, h], v[t, h])
      y = memory.T @ q[t, h] / np.sqrt(k.shape[-1])
      out[t, h] = silu(gate[t, h]) * rms(
        y, p["norm"]["scale"], layer.norm_epsilon
      )
  return dense(p["output"], out.reshape(len(x), -1))


def delta_net(p, x, layer):
  heads = layer.heads
  q, k, v = (
    convolve(p[f"{name}_convolution"], dense(p[name], x)).reshape(
      len(x), heads, -1
    )
    for name in ("query", "key", "value")
  )
  q, k = unit(q) / np.sqrt(k.shape[-1]), unit(k)
  beta = sigmoid(dense(p["beta"], x)) * (1 + layer.negative_eigenvalues)
  a = np.ones(k.shape)
  if layer.decay != "none":
    low = dense(p["decay_down"], x) if layer.decay == "key" else x
    step = softplus(dense(p["decay"], low) + p["dt_bias"])
    step = step.reshape(len(x), heads, -1)
    a = np.exp(-np.exp(p["A_log"])[:, None] * step) * a
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((k.shape[-1], v.shape[-1]))
    for t in range(len(x)):
      key = k[t, h]
      erase = np.eye(len(key)) - beta[t, h] * np.outer(key, key)
      memory = erase @ np.diag(a[t, h]) @ memory
      memory = memory + beta[t, h] * np.outer(key, v[t, h])
      y = memory.T @ q[t, h]
      out[t, h] = rms(y, p["norm"]["scale"], layer.norm_epsilon)
  out = out.reshape(len(x), -1)
  if layer.output_gate:
    gate = dense(p["output_gate"], x)
    out = out * (sigmoid(gate) if layer.decay == "key" else silu(gate))
  return dense(p["output"], out)


def mamba2(p, x, layer):
  inner, width = layer.expand * layer.width, layer.head_width
  heads, groups, states = inner // width, layer.groups, layer.state_width
  z = dense(p["gate"], x)
  mixed = convolve(p["convolution"], dense(p["input"], x))
  u = mixed[:, :inner].reshape(len(x), heads, width)
  b = mixed[:, inner : inner + groups * states].reshape(-1, groups, states)
  c = mixed[:, inner + groups * states :].reshape(-1, groups, states)
  dt = softplus(dense(p["step"], x) + p["dt_bias"])
  out = np.zeros(u.shape)
  for h in range(heads):
    g = h // (heads // groups)
    memory = np.zeros((width, states))
    for t in range(len(x)):
      memory = np.exp(-np.exp(p["A_log"][h]) * dt[t, h]) * memory
      memory = memory + dt[t, h] * np.outer(u[t, h], b[t, g])
      out[t, h] = memory @ c[t, g] + p["D"][h] * u[t, h]
  gated = (out.reshape(len(x), -1) * silu(z)).reshape(len(x), groups, -1)
  scale = p["norm"]["scale"].reshape(groups, -1)
  normed = rms(gated, scale, layer.norm_epsilon)
  return dense(p["output"], normed.reshape(len(x), -1))


def retnet(p, x, layer):
  heads = layer.heads
  q, k, v = (
    dense(p[name], x).reshape(len(x), heads, -1)
    for name in ("query", "key", "value")
  )
  half = q.shape[-1] // 2
  speeds = layer.rotary_base ** (-np.arange(half) / half)
  turn = np.exp(1j * np.arange(len(x))[:, None] * speeds)[:, None]
  # A pair of channels is a complex number, a product of pairs the real part.
  q = (q[..., :half] + 1j * q[..., half:]) * turn / np.sqrt(2 * half)
  k = (k[..., :half] + 1j * k[..., half:]) * turn
  scale, bias = (
    p["norm"][name].reshape(heads, -1) for name in ("scale", "bias")
  )
  out = np.zeros(v.shape)
  for h in range(heads):
    memory = np.zeros((half, v.shape[-1]), complex)
    for t in range(len(x)):
      memory = (1 - 2.0 ** (-5 - h)) * memory
      memory = memory + np.outer(k[t, h].conj(), v[t, h])
      y = (q[t, h] @ memory).real
      y = (y - y.mean()) / np.sqrt(y.var() + layer.norm_epsilon)
      out[t, h] = scale[h] * y + bias[h]
  out = out.reshape(len(x), -1) * silu(dense(p["output_gate"], x))
  return dense(p["output"], out)


def s5(p, x, layer):
  del layer
  rate = -np.exp(p["log_decay_rate"]) + 1j * p["frequency"]
  # Both of each conjugate pair, in place of twice the real part of one.
  rate = np.concatenate([rate, rate.conj()])
  b = p["B"][0] + 1j * p["B"][1]
  c = p["C"][0] + 1j * p["C"][1]
  b, c = np.concatenate([b, b.conj()]), np.concatenate([c, c.conj()], 1)
  a = np.exp(rate * np.tile(np.exp(p["log_step"]), 2))
  h, out = np.zeros(len(rate), complex), []
  for u in x:
    h = a * h + ((a - 1) / rate) * (b @ u)
    y = c @ h
    np.testing.assert_allclose(y.imag, 0, atol=1e-9)
    y = gelu(y.real + p["D"] * u)
    out.append(y * sigmoid(dense(p["gate"], y)))
  return np.stack(out)


def softmax_attention(p, x, layer):
  heads, groups = layer.heads, layer.kv_heads or layer.heads
  q = dense(p["query"], x).reshape(len(x), heads, -1)
  k = dense(p["key"], x).reshape(len(x), groups, -1)
  v = dense(p["value"], x).reshape(len(x), groups, -1)
  if layer.qk_norm:
    q = rms(q, p["query_norm"]["scale"], layer.norm_epsilon)
    k = rms(k, p["key_norm"]["scale"], layer.norm_epsilon)
  half = q.shape[-1] // 2
  speeds = layer.rotary_base ** (-np.arange(half) / half)
  turn = np.exp(1j * np.arange(len(x))[:, None] * speeds)[:, None]
  # A pair of channels is a complex number, a product of pairs the real part.
  q = (q[..., :half] + 1j * q[..., half:]) * turn
  k = (k[..., :half] + 1j * k[..., half:]) * turn
  out = np.zeros((len(x), heads, v.shape[-1]))
  window = layer.window or layer.max_length
  for h in range(heads):
    g = h // (heads // groups)
    for t in range(len(x)):
      seen = slice(max(0, t + 1 - window), t + 1)
      scores = (k[seen, g].conj() @ q[t, h]).real / np.sqrt(2 * half)
      weights = np.exp(scores - scores.max())
      out[t, h] = weights / weights.sum() @ v[seen, g]
  return dense(p["output"], out.reshape(len(x), -1))
