"""Text from a checkpoint: `python -m train.generate --workdir DIR`.

The model reads the prompt once, then generates token by token from its state.
So memory and time per token do not grow with the length of the text (for mixers
whose state does not grow). `--save-state` keeps what was read in a file, and
`--load-state` continues from it.

One prompt is continued as text, which is printed as it is drawn. Several
prompts, or `--log-probs`, print a line of JSON per prompt.

A run with classes or mixers of your own needs their code: `--trust=FILE` with
its config file, or `--trust=MODULE`. No other code of a run is imported.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from flax import linen as nn

from jaxmodels.models.decode import Decoder, Sampling, Stream, sample_token
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
from train.continuing import Extras, Session, as_text
from train.devices import processes
from train.errors import UserError, one_line, reason
from train.files import paths
from train.saved_variables import saved_variables
from train.streams import emit

__all__ = ["as_text", "continuation", "generate", "sample_token"]

_PLAIN = Extras()


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
    temperature: See `Sampling`.
    top_k: See `Sampling`.
    top_p: See `Sampling`.

  Yields:
    Every token as soon as it is drawn.

  Raises:
    UserError: The prompt is empty, or the model cannot read so many tokens.
  """
  decoder = Decoder(model, variables, Sampling(temperature, top_k, top_p))
  try:
    decoder.check_room(len(prompt) + length - 1)
    stream = decoder.stream(decoder.start([prompt], [seed]), length)
  except ValueError as error:
    raise UserError(one_line(error)) from error
  for piece in stream:
    yield from piece.tokens[0]


def _stream(
  session: Session, prompts: Sequence[bytes], seed: int | None
) -> Stream:
  try:
    return session.stream(prompts, seed)
  except ValueError as error:
    raise UserError(one_line(error)) from error


def continuation(
  config: Config,
  variables: Any,
  prompt: bytes,
  sample: Sample,
  seed: int | None = None,
  vocab_size: object = None,
  extras: Extras = _PLAIN,
) -> Iterator[str]:
  """Continues a prompt as text.

  Args:
    config: Of the run.
    variables: The variables of its model: see `generate`.
    prompt: What to continue.
    sample: Length, temperature, `top_k` and `top_p`; its prompt is not used.
    seed: Of the draws; None is 0, or the draws of a loaded state go on.
    vocab_size: Of the data, where it is known.
    extras: The other settings.

  Yields:
    Text, as soon as it is drawn, without the prompt.

  Raises:
    UserError: The data have no tokens for the prompt, a setting is wrong, or a
      file of a state cannot be used.
  """
  session = Session(config, variables, sample, vocab_size, extras)
  stream = _stream(session, [prompt], seed)
  yield from session.text(stream)
  session.save(stream)


def continuations(
  config: Config,
  variables: Any,
  prompts: Sequence[bytes],
  sample: Sample,
  seed: int | None,
  vocab_size: object,
  extras: Extras,
) -> Iterator[str]:
  """Continues prompts in one batch; yields a line of JSON for each.

  The arguments and errors are those of `continuation`. Prompt i has the seed
  `seed + i`, so alone and with that seed it is continued in the same way. No
  prompt continues each row of a loaded state.
  """
  session = Session(config, variables, sample, vocab_size, extras)
  stream = _stream(session, prompts, seed)
  yield from session.lines(prompts, stream)
  session.save(stream)


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    workdir: Directory of the run, or a checkpoint in the Hugging Face layout.
    step: latest, best, or the number of a step.
    prompt: A text to continue; repeat the flag for a batch of texts. Without
      it, standard input is read, or nothing if a state is loaded.
    prompt_file: A file with a prompt per line, in place of `--prompt`.
    length: Tokens to generate per prompt.
    temperature: Divides the logits; 0 takes the likeliest token.
    top_k: Draws only among that many likeliest tokens; None for all.
    top_p: Draws among the fewest likeliest tokens whose probabilities add up
      to at least this; None for all.
    min_p: Draws among tokens at least this times as probable as the likeliest
      token; None for all.
    repetition_penalty: Divides the positive logits of tokens that the text
      already has, and multiplies the negative ones; 1 is none.
    stop: A string at which the text ends; repeat the flag for several.
    log_probs: Whether to print JSON with tokens and their log probabilities.
    seed: Seed of the draws of the first prompt, and the next numbers for the
      others; by default 0, or the draws of a loaded state go on.
    load_state: A file of `--save-state` to continue from. Each prompt is read
      after it.
    save_state: A file for the state after the text. With `--length=0` it is
      the state after the prompt.
    max_length: Most tokens of a text, for layers of full attention: their
      caches have room for so many. A lower bound of the model itself holds.
    trust: A module whose code the saved config may use: a dotted name, or the
      path of a Python file such as the config.
  """

  workdir: str | None = None
  step: str = "latest"
  prompt: flags.Repeated = ()
  prompt_file: str | None = None
  length: int = 256
  temperature: float = 0.8
  top_k: int | None = None
  top_p: float | None = None
  min_p: float | None = None
  repetition_penalty: float = 1.0
  stop: flags.Repeated = ()
  log_probs: bool = False
  seed: int | None = None
  load_state: str | None = None
  save_state: str | None = None
  max_length: int = 8192
  trust: flags.Repeated = ()


def _prompts(options: Options) -> list[bytes]:
  if options.prompt and options.prompt_file is not None:
    raise UserError("give --prompt or --prompt-file, not both")
  if options.prompt_file is not None:
    return _lines(options.prompt_file)
  if options.prompt:
    return [text.encode("utf-8", "surrogateescape") for text in options.prompt]
  return [] if options.load_state is not None else [_standard_input()]


def _lines(path: str) -> list[bytes]:
  try:
    with open(path, "rb") as file:
      lines = file.read().splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read {path}: {reason(error)}") from error
  if not lines:
    raise UserError(f"{path} has no prompts")
  return lines


def _standard_input() -> bytes:
  # Python has no stream where standard input is closed.
  stdin = sys.stdin
  try:
    if stdin is not None and not stdin.isatty():
      return stdin.buffer.read()
  # A stream that was closed raises a ValueError.
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read standard input: {reason(error)}") from error
  raise UserError("give --prompt=TEXT, or the prompt on standard input")


def _check(options: Options, sample: Sample) -> None:
  flags.in_range("--seed", options.seed, 0, MOST_SEED)
  flags.in_range("--max-length", options.max_length, 1, 1 << 30)
  check_sample(sample, "--")
  if options.min_p is not None and not 0 <= options.min_p <= 1:
    raise UserError(f"--min-p is {options.min_p}, but must be 0 to 1")
  if not 0 < options.repetition_penalty < float("inf"):
    raise UserError(
      f"--repetition-penalty is {options.repetition_penalty}, but must be more "
      "than 0 and finite"
    )
  if "" in options.stop:
    raise UserError("--stop is empty, but must be text")


def _run(argv: Sequence[str]) -> int:
  usage = "python -m train.generate --workdir DIR --prompt TEXT ..."
  about = "Continues a prompt from a checkpoint."
  options = flags.only(Options(), argv, usage, about)
  sample = Sample(
    length=options.length,
    temperature=options.temperature,
    top_k=options.top_k,
    top_p=options.top_p,
  )
  _check(options, sample)
  prompts = _prompts(options)
  workdir = paths.local("--workdir", options.workdir)
  # Without devices, every checkpoint would look damaged.
  processes.start_jax()
  snapshot = published.load(workdir, options.step, warn)
  trusted = modules.import_trusted(options.trust)
  config = saved.read_config(snapshot.config, trusted)
  beside = snapshot.config.get("$data")
  extras = Extras(
    min_p=options.min_p,
    repetition_penalty=options.repetition_penalty,
    stop=options.stop,
    load_state=options.load_state,
    save_state=options.save_state,
    owner=f"{workdir}, step {snapshot.step}",
    max_length=options.max_length,
  )
  settings = (
    sample,
    options.seed,
    beside.get("vocab_size") if isinstance(beside, dict) else None,
    extras,
  )
  variables = saved_variables(config, snapshot.state)
  is_json = options.log_probs or len(prompts) > 1
  with trust.explained(snapshot.config):
    if is_json:
      for line in continuations(config, variables, prompts, *settings):
        emit(line)
    else:
      prompt = prompts[0] if prompts else b""
      for text in continuation(config, variables, prompt, *settings):
        emit(text, end="")
      emit("")
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
