"""Language models for training and decoding, one per mixer."""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel
from train.config import AdamW
from train.optimizer import make_optimizer, schedule
from train.state import init_state
from train.step import Learner, train_step

SOFTMAX = "softmax_attention"
_VOCABULARY = 257


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of all models.

  Attributes:
    width: D.
    heads: number of heads, for mixers that have them.
    depth: number of layers.
    scan_layers: whether to scan over the layers.
  """

  width: int = 128
  heads: int = 2
  depth: int = 4
  scan_layers: bool = False


def model(mixer: str, shape: Shape, length: int) -> LanguageModel:
  """A model with one kind of mixer.

  Args:
    mixer: a name in `jaxmodels.mixers.MIXERS`.
    shape: of the model.
    length: capacity of softmax attention's cache, in tokens.
  """
  make: Any = MIXERS[mixer]  # Flax modules are dataclasses.
  fields = {field.name for field in dataclasses.fields(make)}
  options = {"heads": shape.heads} if "heads" in fields else {}
  if mixer == SOFTMAX:
    options["max_length"] = length
  return LanguageModel(
    vocab_size=_VOCABULARY,
    width=shape.width,
    depth=shape.depth,
    mixers=(mixer,),
    mixer_options={mixer: options},
    scan_layers=shape.scan_layers,
  )


class Training(NamedTuple):
  """A training step that is not compiled yet.

  Attributes:
    step: `(state, batch) -> (state, metrics)`, the trainer's.
    state: the shapes of the state before the step.
    batch: the shapes of its batch.
    initial: makes the initial state.
  """

  step: Any
  state: Any
  batch: Any
  initial: Any


def training(lm: nn.Module, batch: int, length: int) -> Training:
  """The trainer's step with AdamW."""
  config, steps = AdamW(), 1000
  optimizer = make_optimizer(config, steps)
  learner = Learner(lm, optimizer, schedule(config, steps))
  initial = functools.partial(init_state, lm, learner.optimizer, 0, length)
  tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
  batches = {
    "inputs": tokens,
    "targets": tokens,
    "segment_ids": tokens,
    "weights": jax.ShapeDtypeStruct(tokens.shape, jnp.float32),
  }
  step = functools.partial(train_step, learner)
  return Training(step, jax.eval_shape(initial), batches, initial)


def draw_batch(shapes: Any) -> dict[str, jax.Array]:
  """Random tokens in one segment, all with weight 1."""
  rng = np.random.default_rng(0)
  tokens = shapes["inputs"]
  drawn = rng.integers(_VOCABULARY, size=(2, *tokens.shape), dtype=np.int32)
  return {
    "inputs": jnp.asarray(drawn[0]),
    "targets": jnp.asarray(drawn[1]),
    "segment_ids": jnp.zeros(tokens.shape, jnp.int32),
    "weights": jnp.ones(tokens.shape, jnp.float32),
  }


class Decoder:
  """Generates tokens one by one from a recurrent state.

  Each call donates the state, as in `train.generate`, so that a cache is
  updated in place.
  """

  def __init__(self, lm: LanguageModel, params: Any, tokens: int):
    self._tokens = tokens
    self._params = params
    self._token = jnp.zeros((1, 1), jnp.int32)
    self.state = jax.tree.map(jnp.copy, lm.init_state(1))
    traced = jax.jit(_advance(lm), donate_argnums=1).lower(
      params, self.state, self._token
    )
    self._step = traced.compile()
    self._lm = lm

  def prefill(self, length: int) -> None:
    """Reads a prompt of random tokens."""
    prompt = np.random.default_rng(0).integers(_VOCABULARY, size=(1, length))
    advance = jax.jit(_advance(self._lm), donate_argnums=1)
    self._token, self.state = advance(
      self._params, self.state, jnp.asarray(prompt, jnp.int32)
    )

  def __call__(self) -> jax.Array:
    """Generates the tokens of one call and returns the last."""
    for _ in range(self._tokens):
      self._token, self.state = self._step(
        self._params, self.state, self._token
      )
    return self._token


def _advance(lm: LanguageModel):
  def advance(params, state, tokens):
    logits, state = lm.apply({"params": params}, tokens, state)
    return jnp.argmax(logits[:, -1:], -1).astype(jnp.int32), state

  return advance


def state_bytes(lm: LanguageModel) -> int:
  """Bytes of the state of one sequence."""
  leaves = jax.tree.leaves(jax.eval_shape(lambda: lm.init_state(1)))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
