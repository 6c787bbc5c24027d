"""Times generation: `python -m benchmarks.decode`.

Compares the decoder with Hugging Face transformers on the same random weights,
in models of the shapes of Mamba-130M and Mamba-2-130M, and with the time that
reading the weights takes. `--table` times a small model of every mixer, and
`--write` puts that table into `jaxmodels/models/README.md`.
"""

import argparse
import importlib.util
import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import decode_peers
from benchmarks.lm import Shape, model
from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel
from jaxmodels.models.decode import Decoder, DecodeState, Sampling
from jaxmodels.testing import examples

_PAGE = pathlib.Path(__file__).parents[1] / "jaxmodels" / "models" / "README.md"
_MARK = re.compile(r"(<!-- decode -->\n).*?(<!-- /decode -->)", re.S)
_GREEDY = Sampling(temperature=0)
# Elements that the measurement of the bandwidth reads: 512 MiB of float32.
_READ = 1 << 27
_TABLE = Shape(width=256, heads=4, depth=1)
_MOST_ROWS = 32


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.decode", description=__doc__.splitlines()[0]
  )
  flags.add_argument(
    "--models",
    nargs="+",
    choices=decode_peers.SHAPES,
    default=list(decode_peers.SHAPES),
  )
  flags.add_argument("--batches", nargs="+", type=int, default=[1, 32])
  flags.add_argument("--tokens", type=int, default=16, help="tokens per round")
  flags.add_argument("--repeats", type=int, default=3, help="rounds")
  flags.add_argument(
    "--behind",
    type=int,
    default=0,
    help="instead, time tokens before and after a prompt of this length",
  )
  flags.add_argument(
    "--depth", type=int, default=24, help="layers of the model of --behind"
  )
  flags.add_argument("--table", action="store_true", help="time every mixer")
  flags.add_argument(
    "--mixers", nargs="+", choices=MIXERS, default=sorted(MIXERS)
  )
  flags.add_argument(
    "--cpu-time",
    action="store_true",
    help="time in seconds of CPU of all threads, for a machine that is busy",
  )
  flags.add_argument(
    "--write", action="store_true", help="put the table into the README"
  )
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command."""
  options = parser().parse_args(arguments)
  if options.cpu_time:
    decode_peers.clock.now = time.process_time
  if options.table or options.write:
    text = table(options.mixers, options.tokens, options.repeats)
    print(text, end="")
    if options.write:
      _PAGE.write_text(update(_PAGE.read_text(), text))
    return 0
  for name in options.models:
    if options.behind:
      _far(name, options)
      continue
    for batch in options.batches:
      _compare(name, batch, options)
  return 0


class Limit(NamedTuple):
  """What a machine reads, in bytes per second."""

  bandwidth: float

  @classmethod
  def measure(cls, threads: int = 2) -> "Limit":
    """The best of five sums over 512 MiB, with as many threads."""
    parts = np.split(np.ones(_READ, np.float32), threads)

    def read() -> None:
      workers = [threading.Thread(target=part.sum) for part in parts]
      for worker in workers:
        worker.start()
      for worker in workers:
        worker.join()

    return cls(4 * _READ / min(_seconds(read) for _ in range(5)))


def _seconds(call: Callable[[], Any]) -> float:
  start = decode_peers.clock.now()
  call()
  return decode_peers.clock.now() - start


class Ours:
  """A decoder whose rows have read a few tokens."""

  def __init__(self, decoder: Decoder, batch: int, tokens: int) -> None:
    """Compiles the program.

    Args:
      decoder: The decoder.
      batch: The number of rows.
      tokens: Tokens of each row in a call of `seconds_per_token`.
    """
    self._decoder, self._tokens = decoder, tokens
    self._state: DecodeState = decoder.start([[1]] * batch)
    self.batch = batch
    self.seconds_per_token()

  def seconds_per_token(self) -> float:
    """Draws tokens, and returns the seconds per token of each row."""
    limits = np.full(self.batch, self._tokens, np.int32)

    def draw() -> None:
      self._state = self._decoder.advance(self._state, limits)[0]

    return _seconds(draw) / self._tokens

  def read(self, tokens: int) -> None:
    """Reads random tokens."""
    rng = np.random.default_rng(0)
    size = self._decoder.vocab_size
    rows = rng.integers(0, size, (self.batch, tokens)).tolist()
    self._state = self._decoder.read(self._state, rows)
    jax.block_until_ready(self._state)


def _compare(name: str, batch: int, options: argparse.Namespace) -> None:
  """Prints tokens per second of the decoder, of transformers, and the limit."""
  peer = None
  if importlib.util.find_spec("transformers") is not None:
    peer = decode_peers.Peer(name, batch)
  variables = _variables(name, peer)
  decoder = Decoder(
    decode_peers.SHAPES[name], variables, _GREEDY, piece=options.tokens
  )
  calls: dict[str, Callable[[], float]] = {}
  ours = Ours(decoder, batch, options.tokens)
  calls["ours"] = ours.seconds_per_token
  if peer is not None:
    _check_logits(name, variables, peer)
    # On a busy machine, one thread may be faster than threads that wait.
    calls["transformers, 1 thread"] = lambda: peer.loop(options.tokens, 1)
    calls["transformers, 2 threads"] = lambda: peer.loop(options.tokens, 2)
    calls["transformers, generate"] = lambda: peer.generate(options.tokens)
  found, limits = _rounds(calls, options.repeats)
  weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
  bandwidth = max(limit.bandwidth for limit in limits)
  print(
    f"{name}, {batch} rows, float32: weights of {weights / 1e6:.0f} MB, read "
    f"at {bandwidth / 1e9:.1f} GB/s in {1e3 * weights / bandwidth:.1f} ms"
  )
  best = {key: min(times) for key, times in found.items()}
  for key, value in best.items():
    print(
      f"  {key:24} {1e3 * value:8.1f} ms per token "
      f"{batch / value:8.1f} tokens/s  {value / best['ours']:5.2f} of ours  "
      f"{value * bandwidth / weights:5.2f} of the limit",
      flush=True,
    )


def _rounds(
  calls: Mapping[str, Callable[[], float]], repeats: int
) -> tuple[dict[str, list[float]], list[Limit]]:
  """Times calls and the bandwidth in turn; noise affects all alike."""
  found: dict[str, list[float]] = {key: [] for key in calls}
  limits = []
  for _ in range(repeats):
    limits.append(Limit.measure())
    for key, call in calls.items():
      found[key].append(call())
  return found, limits


def _variables(name: str, peer: Any) -> Any:
  return (
    _random(decode_peers.SHAPES[name]) if peer is None else peer.variables()
  )


def _random(network: LanguageModel) -> Any:
  """Random variables of a model."""
  rng = np.random.default_rng(0)
  tokens = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), tokens)
  return jax.tree.map(
    lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape, np.float32)),
    shapes,
  )


def _check_logits(name: str, variables: Any, peer: Any) -> None:
  """Checks that both models are the same function."""
  tokens = np.random.default_rng(0).integers(0, 50_000, (1, 9))
  network: LanguageModel = decode_peers.SHAPES[name]
  got = np.asarray(jax.jit(network.apply)(variables, tokens)[0])
  wanted = peer.logits(tokens)
  error = np.abs(got - wanted).max() / np.abs(wanted).max()
  if not error < 1e-3:
    raise ValueError(f"{name}: the logits differ by {error:.1g}")
  print(f"{name}: logits differ by {error:.1g} of the largest")


def _far(name: str, options: argparse.Namespace) -> None:
  """Prints the time per token with few and with many tokens behind it."""
  network = decode_peers.SHAPES[name].clone(depth=options.depth)
  decoder = Decoder(
    network,
    _random(network),
    _GREEDY,
    chunk_size=256,
    piece=options.tokens,
  )
  ours = Ours(decoder, 1, options.tokens)
  near = min(ours.seconds_per_token() for _ in range(options.repeats))
  took = _seconds(lambda: ours.read(options.behind))
  far = min(ours.seconds_per_token() for _ in range(options.repeats))
  print(
    f"{name}, {options.depth} layers, 1 row: {1e3 * near:.1f} ms per token at "
    f"the start, {1e3 * far:.1f} ms after {options.behind:,} tokens "
    f"(read in {took:.1f} s)",
    flush=True,
  )


def table(mixers: Sequence[str], tokens: int, repeats: int) -> str:
  """A table of all mixers that decode: bytes of state and tokens per second."""
  lines = [_head()]
  causal = {r.mixer for r in examples.MIXERS.values() if r.causal}
  for mixer in mixers:
    if mixer in causal:
      lines.append(_row(mixer, tokens, repeats))
      print(lines[-1], end="", file=sys.stderr, flush=True)
      jax.clear_caches()
  return "".join(lines)


def _head() -> str:
  is_cpu_time = decode_peers.clock.now is time.process_time
  unit = "tokens per CPU second" if is_cpu_time else "tokens/s"
  return (
    f"| mixer | bytes of state per sequence | {unit}, 1 row | "
    f"{unit}, {_MOST_ROWS} rows |\n| --- | ---: | ---: | ---: |\n"
  )


def _row(mixer: str, tokens: int, repeats: int) -> str:
  network = model(mixer, _TABLE, 1024)
  decoder = Decoder(network, _random(network), _GREEDY, piece=tokens)
  state = decoder.shapes(1).model
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  rates = []
  for batch in (1, _MOST_ROWS):
    ours = Ours(decoder, batch, tokens)
    best = min(ours.seconds_per_token() for _ in range(repeats))
    rates.append(f"{batch / best:,.0f}")
  return f"| `{mixer}` | {size:,} | {' | '.join(rates)} |\n"


def update(page: str, text: str) -> str:
  """The page with the table between its marks."""
  if not _MARK.search(page):
    raise ValueError("the page has no marks <!-- decode -->, <!-- /decode -->")
  return _MARK.sub(lambda match: match[1] + text + match[2], page)


if __name__ == "__main__":
  sys.exit(main())
