"""Text from a checkpoint: `python -m train.generate --workdir DIR`.

The model reads the prompt once, then generates token by token from its state.
So memory and time per token do not grow with the length of the text (for mixers
whose state does not grow).

A run with classes or mixers of your own needs their code: `--trust=FILE` with
its config file, or `--trust=MODULE`. No other code of a run is imported.
"""

import codecs
import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxmodels.models import without_lora
from train import flags, published
from train.command import main_with_errors, warn
from train.config import (
  MOST_SEED,
  Config,
  Sample,
  check_sample,
  modules,
  saved,
  trust,
)
from train.data import Codec
from train.data.opening import open_codec
from train.devices import processes
from train.errors import UserError, one_line, reason
from train.files import paths
from train.saved_variables import saved_variables
from train.streams import emit


def sample_token(
  logits: jax.Array,
  key: jax.Array,
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> jax.Array:
  """Draws a token.

  Args:
    logits: Float `[V]`.
    key: Random key of the draw.
    temperature: Divides the logits; 0 takes the likeliest token.
    top_k: Draws only among the `top_k` likeliest tokens.
    top_p: Draws among the fewest likeliest tokens whose probabilities (at
      this temperature, and within `top_k`) add up to at least this.

  Returns:
    The token, an int32 scalar.
  """
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  order = jnp.argsort(-logits)
  ranked = logits[order].astype(jnp.float32) / temperature
  if top_k is not None:
    ranked = jnp.where(jnp.arange(ranked.size) < top_k, ranked, -jnp.inf)
  if top_p is not None:
    shares = jax.nn.softmax(ranked)
    # The sum excludes the token itself, so the likeliest token always stays.
    ahead = jnp.cumsum(shares) - shares
    ranked = jnp.where(ahead < top_p, ranked, -jnp.inf)
  return order[jax.random.categorical(key, ranked)].astype(jnp.int32)


def generate(
  model: nn.Module,
  variables: Any,
  prompt: Sequence[int],
  *,
  length: int,
  seed: int = 0,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> Iterator[int]:
  """Continues a prompt token by token.

  Args:
    model: A module with the call and the `init_state` of `LanguageModel`.
    variables: Its variables: "params" and the other collections.
    prompt: Tokens, at least one.
    length: Tokens to generate.
    seed: Of the draws.
    temperature: See `sample_token`.
    top_k: See `sample_token`.
    top_p: See `sample_token`.

  Yields:
    Every token as soon as it is drawn.

  Raises:
    UserError: The prompt is empty, or the model cannot read so many tokens.
  """
  if not prompt:
    raise UserError("the prompt is empty, and gives nothing to continue")
  tokens_read = max(1, len(prompt) + length - 1)
  state = _zero_state(model, variables, tokens_read)
  draw = functools.partial(
    sample_token, temperature=temperature, top_k=top_k, top_p=top_p
  )

  @functools.partial(jax.jit, donate_argnums=1)
  def advance(
    variables: Any, state: Any, tokens: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Any]:
    logits, state = model.apply(variables, tokens, state)
    return draw(logits[0, -1], key), state

  variables = jax.device_put(variables)
  tokens = jnp.asarray(np.asarray(prompt, np.int32)[None])
  key = jax.random.key(seed)
  for index in range(length):
    token, state = advance(
      variables, state, tokens, jax.random.fold_in(key, index)
    )
    yield int(token)
    tokens = token[None, None]


def _zero_state(model: nn.Module, variables: Any, tokens: int) -> Any:
  """Returns the initial state, if the model can read that many tokens."""
  # `nn.Module` does not declare what a sequence model has beside it.
  state = cast(Any, model).init_state(1)
  try:
    row = jax.ShapeDtypeStruct((1, tokens), np.int32)
    # A mixer with a bound on its context refuses a sequence beyond it.
    jax.eval_shape(model.apply, variables, row, state)
  except ValueError as error:
    raise UserError(
      f"the model cannot read {tokens} tokens, the prompt and what is to be "
      f"generated: {one_line(error)}"
    ) from error
  # A user's model may use one array for several leaves, but donation needs a
  # buffer per leaf.
  return jax.tree.map(jnp.copy, state)


def as_text(codec: Codec, tokens: Iterable[int]) -> Iterator[str]:
  """Decodes a stream of tokens, each character as soon as it is whole.

  Args:
    codec: Turns tokens into bytes.
    tokens: The stream.

  Yields:
    Text. A byte that can belong to no character becomes U+FFFD.
  """
  decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
  for token in tokens:
    text = decoder.decode(codec.decode([token]))
    if text:
      yield text
  rest = decoder.decode(b"", final=True)
  if rest:
    yield rest


def continuation(
  config: Config,
  variables: Any,
  prompt: bytes,
  sample: Sample,
  seed: int = 0,
  vocab_size: object = None,
) -> Iterator[str]:
  """Continues a prompt as text.

  Args:
    config: Of the run.
    variables: The variables of its model: see `generate`.
    prompt: What to continue.
    sample: Length, temperature, `top_k` and `top_p`; its prompt is not used.
    seed: Of the draws.
    vocab_size: Of the data, where it is known.

  Yields:
    Text, as soon as it is drawn, without the prompt.

  Raises:
    UserError: The data have no tokens for the prompt.
  """
  codec = open_codec(config.data, vocab_size)
  try:
    tokens = codec.encode(prompt)
  except ValueError as error:
    raise UserError(f"the prompt cannot be encoded: {error}") from error
  model, variables = without_lora(config.model, variables)
  stream = generate(
    model,
    variables,
    tokens,
    length=sample.length,
    seed=seed,
    temperature=sample.temperature,
    top_k=sample.top_k,
    top_p=sample.top_p,
  )
  yield from as_text(codec, stream)


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    workdir: Directory of the run, or a checkpoint in the Hugging Face layout.
    step: latest, best, or the number of a step.
    prompt: The text to continue; None reads standard input.
    length: Tokens to generate.
    temperature: Divides the logits; 0 takes the likeliest token.
    top_k: Draws only among that many likeliest tokens; None for all.
    top_p: Draws among the fewest likeliest tokens whose probabilities add up
      to at least this; None for all.
    seed: Seed of the draws.
    trust: A module whose code the saved config may use: a dotted name, or the
      path of a Python file such as the config.
  """

  workdir: str | None = None
  step: str = "latest"
  prompt: str | None = None
  length: int = 256
  temperature: float = 0.8
  top_k: int | None = None
  top_p: float | None = None
  seed: int = 0
  trust: flags.Repeated = ()


def _prompt(given: str | None) -> bytes:
  if given is not None:
    return given.encode("utf-8", "surrogateescape")
  # Python has no stream where standard input is closed.
  stdin = sys.stdin
  try:
    if stdin is not None and not stdin.isatty():
      return stdin.buffer.read()
  # A stream that was closed raises a ValueError.
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read standard input: {reason(error)}") from error
  raise UserError("give --prompt=TEXT, or the prompt on standard input")


def _run(argv: Sequence[str]) -> int:
  usage = "python -m train.generate --workdir DIR --prompt TEXT ..."
  about = "Continues a prompt from a checkpoint."
  options = flags.only(Options(), argv, usage, about)
  flags.in_range("--seed", options.seed, 0, MOST_SEED)
  sample = Sample(
    length=options.length,
    temperature=options.temperature,
    top_k=options.top_k,
    top_p=options.top_p,
  )
  check_sample(sample, "--")
  prompt = _prompt(options.prompt)
  workdir = paths.local("--workdir", options.workdir)
  # Without devices, every checkpoint would look damaged.
  processes.start_jax()
  snapshot = published.load(workdir, options.step, warn)
  trusted = modules.import_trusted(options.trust)
  config = saved.read_config(snapshot.config, trusted)
  beside = snapshot.config.get("$data")
  pieces = continuation(
    config,
    saved_variables(config, snapshot.state),
    prompt,
    sample,
    options.seed,
    beside.get("vocab_size") if isinstance(beside, dict) else None,
  )
  with trust.explained(snapshot.config):
    for text in pieces:
      emit(text, end="")
  emit("")
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
