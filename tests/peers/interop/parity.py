"""A family of ours and its public implementation, on the same weights."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np

from jaxmodels import interop
from tests.peers.compare import load

LENGTH, PREFIX = 37, 20
# Largest max|a - b| / max|b| over all logits. In float64 what may remain are
# rotary tables that a public implementation makes in float32.
FLOAT64, FLOAT32 = 3e-7, 5e-5


def tokens_of(model: Any, batch: int = 2, seed: int = 0) -> np.ndarray:
  """Random tokens [B, L] of the vocabulary of a model of ours."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, model.vocab_size, (batch, LENGTH))


def error(ours: Any, theirs: Any) -> float:
  """max|ours - theirs| / max|theirs|."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape
  return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


def randomize(model: Any, seed: int = 0, scale: float = 0.3) -> None:
  """Adds noise to all weights, so that no bias is 0 and no norm is 1."""
  torch = load("torch")
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for weight in model.parameters():
      noise = torch.randn(weight.shape, generator=generator)
      weight.add_(scale * noise.to(weight.dtype) / max(1, weight.ndim) ** 2)


def their_logits(model: Any, tokens: np.ndarray, dtype: str) -> np.ndarray:
  """The logits of their model on whole sequences, in that dtype."""
  torch = load("torch")
  # Some implementations change their weights as they run.
  copied = copy.deepcopy(model).to(getattr(torch, dtype)).eval()
  # The other implementation of experts has no float64, and not every width.
  copied.config._experts_implementation = "eager"
  with torch.no_grad(), at_least(dtype):
    result = copied(torch.tensor(tokens), use_cache=False)
  return result.logits.double().numpy()


@contextlib.contextmanager
def at_least(dtype: str) -> Iterator[None]:
  """Makes torch compute in float64 where a model asks for float32.

  Norms and states of public implementations are in float32 whatever the dtype
  of the model, and so are their errors.
  """
  if dtype == "float32":
    yield
    return
  torch = load("torch")
  with (
    mock.patch.object(torch, "float32", torch.float64),
    mock.patch.object(torch, "float", torch.float64),
    mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
  ):
    yield


def our_logits(
  model: Any, variables: Any, tokens: np.ndarray, dtype: str
) -> dict[str, np.ndarray]:
  """The logits whole, by a prefix and steps, and by two pieces."""
  model = model.copy(dtype=np.dtype(dtype), parent=None)
  call = jax.jit(model.apply)

  def pieces(*cuts: int) -> np.ndarray:
    state, found = model.init_state(len(tokens)), []
    for start, stop in zip((0, *cuts), (*cuts, LENGTH), strict=True):
      logits, state = call(variables, tokens[:, start:stop], state)
      found.append(logits)
    return np.concatenate(found, 1)

  return {
    "whole": np.asarray(call(variables, tokens)[0]),
    "steps": pieces(*range(PREFIX, LENGTH)),
    "pieces": pieces(PREFIX),
  }


def check_family(
  theirs: Any,
  folder: Any,
  *,
  logits: Callable[..., np.ndarray] = their_logits,
  reload: bool = True,
) -> None:
  """Asserts all that a family promises, for one model of theirs.

  Our logits equal theirs in float64 and float32: whole, by a prefix and single
  steps, and by two pieces. The folder that we save has the bytes of theirs, and
  their class loads it and gives the same logits.

  Args:
    theirs: A model with random weights.
    folder: A path of pathlib, an empty folder.
    logits: `their_logits`, or a function with its arguments.
    reload: Whether their class reads what we saved.
  """
  load("torch").set_num_threads(1)
  randomize(theirs)
  theirs.save_pretrained(folder / "theirs")
  model, variables = interop.load(folder / "theirs")
  tokens = tokens_of(model)
  with jax.enable_x64(True):
    double = logits(theirs, tokens, "float64")
    errors = compared(model, variables, tokens, "float64", double)
  assert max(errors.values()) < FLOAT64, f"float64: {errors}"
  single = logits(theirs, tokens, "float32")
  errors = compared(model, variables, tokens, "float32", single)
  assert max(errors.values()) < FLOAT32, f"float32: {errors}"
  check_saved(folder, model, variables)
  if reload:
    again = type(theirs).from_pretrained(folder / "ours")
    # Products of all experts at once need rows of whole units of 16 bytes.
    kind = getattr(theirs.config, "_experts_implementation", None)
    if kind is not None:
      again.config._experts_implementation = kind
    assert error(logits(again, tokens, "float32"), single) < 1e-6


def compared(
  model: Any, variables: Any, tokens: np.ndarray, dtype: str, theirs: Any
) -> dict[str, float]:
  """The errors of our logits whole, by steps and by pieces."""
  ours = our_logits(model, variables, tokens, dtype)
  errors = {name: error(x, theirs) for name, x in ours.items()}
  print(dtype, {name: f"{x:.1e}" for name, x in errors.items()})
  return errors


def check_saved(folder: Any, model: Any, variables: Any) -> None:
  """Asserts that saving returns every byte, and a config of the same model."""
  interop.save(folder / "ours", model, variables, like=folder / "theirs")
  first, second = stored(folder / "theirs"), stored(folder / "ours")
  assert first.keys() == second.keys()
  family = interop.checkpoint._written(model, None, {})[0]
  computed = {x for r in family.rules(model) if not r.ours for x in r.theirs}
  for name, value in first.items():
    assert value.dtype == second[name].dtype, name
    if name in computed:
      # An exponential of torch may differ in the last bit.
      np.testing.assert_allclose(second[name], value, rtol=3e-7)
    else:
      assert value.tobytes() == second[name].tobytes(), name
  # Without the config of theirs, the model alone gives its config.
  interop.save(folder / "alone", model, variables)
  again, _ = interop.load(folder / "alone")
  assert interop.checkpoint.difference(model, again) is None


def stored(folder: Any) -> dict[str, np.ndarray]:
  """All tensors of a folder."""
  files = load("safetensors.numpy")
  found: dict[str, np.ndarray] = {}
  for file in sorted(folder.glob("*.safetensors")):
    found.update(files.load_file(file))
  return found
