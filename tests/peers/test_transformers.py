"""Equal to the plain PyTorch functions of Hugging Face transformers.

They are wrapped so that fla's or mamba-ssm's GPU kernels take over where those
are installed; the functions underneath are what is compared here.
"""

import inspect
import math

import pytest

from jaxmodels import ops
from tests.ops import draws
from tests.peers.compare import check, drawn, load, torch_peer

pytestmark = pytest.mark.slow
MODELS = "transformers.models"


def plain(model, function):
  """A function of transformers without its wrapper."""
  module = load(f"{MODELS}.{model}.modeling_{model}")
  return inspect.unwrap(getattr(module, function))


@pytest.mark.parametrize("form", ["recurrent", "chunk"])
@pytest.mark.parametrize(
  ("model", "name", "decay"),
  [
    ("qwen3_next", "torch_{}_gated_delta_rule", "head"),
    ("kimi_linear", "{}_kimi_delta_attention", "key"),
  ],
)
def test_gated_delta_rule(model, name, decay, form):
  """Qwen3-Next and Kimi Linear; they scale q by 1/sqrt(K)."""
  function = plain(model, name.format(form))

  def peer(q, k, v, beta, log_decay, initial_state):
    q = q * math.sqrt(q.shape[-1])
    return function(
      q, k, v, log_decay, beta, initial_state=initial_state,
      output_final_state=True,
    )  # fmt: skip

  check(ops.delta_rule, torch_peer(peer), drawn(draws.delta_rule(decay)))


def test_selective_scan():
  """Mamba; channels come before tokens, and the state starts at zero."""
  function = plain("mamba", "mamba_selective_scan")

  def peer(x, dt, A, B, C, D):
    x, dt, B, C = (array.transpose(1, 2) for array in (x, dt, B, C))
    y, state = function(x, dt, A, B, C, D, return_last_state=True)
    return y.transpose(1, 2), state

  inputs = drawn(draws.selective_scan)
  inputs.pop("initial_state")
  check(ops.selective_scan, torch_peer(peer), inputs)


def test_state_space_duality():
  """Mamba-2: linear attention with q = C, k = B, v = dt x, log decay dt A.

  Its state is the transpose of ours.
  """
  torch = load("torch")
  function = plain("mamba2", "mamba2_chunk_scan")

  def peer(q, k, v, log_decay, initial_state):
    A, dt = -torch.ones(log_decay.shape[-1]), -log_decay
    y, state = function(
      v / dt[..., None], dt, A, k, q, 16,
      initial_states=initial_state.transpose(2, 3), return_final_states=True,
    )  # fmt: skip
    return y, state.transpose(2, 3)

  inputs = drawn(draws.linear_attention("head"))
  check(ops.linear_attention, torch_peer(peer), inputs)
