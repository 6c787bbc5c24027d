"""Turns text files into shards of tokens: `python -m train.data.tokenize`.

  python -m train.data.tokenize --files books/ --output data/books

reads a folder of text and writes memory-mapped shards, on all cores.
`train.data.Tokens(path="data/books")` trains on them. The same command again
continues after an interruption; the result has the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tqdm

from train import files, flags
from train.command import main_with_errors
from train.data import shards, tokenizer
from train.data.documents import (
  KINDS,
  Options,
  Plan,
  documents,
  make_plan,
  naming,
)
from train.errors import RunError, UserError, one_line, shown
from train.files import lock, paths
from train.streams import log

# Bytes of documents between two reports of a worker.
_REPORT = 1 << 20


def write_shard(
  plan: Plan,
  number: int,
  folder: str,
  found: tokenizer.Tokenizer,
  progress: Callable[[int], object] = lambda size: None,
) -> None:
  """Writes one shard: its tokens, its starts, and last what the index says.

  Args:
    plan: The plan.
    number: Of the shard.
    folder: Where to write.
    found: The tokenizer.
    progress: Takes the bytes done since the last call.

  Raises:
    ValueError: A file cannot be read.
    OSError: The shard cannot be written.
  """
  dtype = dtype_of(found)
  starts: list[int] = []
  corrections: list[np.ndarray] = []
  tokens, content_bytes, reported = 0, 0, 0
  digest = hashlib.blake2b(digest_size=16)
  with files.replacing(shards.shard_path(folder, number, "bin")) as file:
    for origin, content in documents(plan, number):
      with naming(origin):
        encoded = found.encode_exactly(content)
        ids = encoded.tokens.astype(dtype).tobytes()
      file.write(ids)
      digest.update(ids)
      starts.append(tokens)
      if len(encoded.places):
        pair = encoded.places + tokens, encoded.excess
        corrections.append(np.stack(pair, axis=1))
      tokens += len(ids) // dtype.itemsize
      content_bytes += len(content)
      if content_bytes - reported >= _REPORT:
        progress(content_bytes - reported)
        reported = content_bytes
  written = np.asarray(starts, "<i8").tobytes()
  digest.update(written)
  files.replace(shards.shard_path(folder, number, "starts"), written)
  excess = np.concatenate([np.zeros((0, 2), np.int64), *corrections])
  if len(excess):
    path = shards.shard_path(folder, number, "excess")
    files.replace(path, excess.astype("<i8").tobytes())
  about = {
    "tokens": tokens,
    "documents": len(starts),
    "corrections": len(excess),
    "content_bytes": content_bytes,
    "digest": digest.hexdigest(),
  }
  path = shards.shard_path(folder, number, "json")
  files.replace(path, json.dumps(about).encode())
  # Documents may be less than the files, such as in JSON.
  progress(sum(part.size for part in plan.shards[number]) - reported)


def dtype_of(found: tokenizer.Tokenizer) -> np.dtype:
  """Returns the smallest dtype that holds all tokens."""
  return np.dtype("<u2" if found.vocab_size <= 1 << 16 else "<u4")


def _begin(plan: Plan, folder: str, done: Any) -> None:
  """Prepares a worker, which has its own tokenizer and ends with its parent."""
  # By default an interrupt raises an error here, with a traceback.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # Each core has a worker already.
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  found = tokenizer.load(plan.tokenizer, plan.separator)

  def progress(size: int) -> None:
    with done.get_lock():
      done.value += size

  _worker.update(plan=plan, folder=folder, found=found, progress=progress)


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


_worker: dict[str, Any] = {}


def _work(number: int) -> str | None:
  """Writes one shard; returns the line of an error, if there is one."""
  try:
    write_shard(number=number, **_worker)
  except ValueError as error:
    return one_line(error)
  return None


def tokenize(plan: Plan, folder: str, processes: int) -> shards.Index:
  """Writes all shards that are not there yet, then the index.

  Args:
    plan: What to write.
    folder: Where to write; it is there.
    processes: How many processes to start.

  Returns:
    The index.

  Raises:
    UserError: The folder holds other shards.
    ValueError: A file cannot be read.
  """
  found = tokenizer.load(plan.tokenizer, plan.separator)
  source = plan.digest(found.identity)
  if os.path.exists(os.path.join(folder, shards.INDEX)):
    index = shards.read_index(folder)
    if index.source != source:
      raise _others(folder)
    return index
  _claim(folder, source)
  _write_all(plan, folder, processes)
  if plan.tokenizer:
    files.replace(os.path.join(folder, tokenizer.FILE_NAME), found.content)
  content = shards.vocabulary_json(found.vocabulary())
  files.replace(os.path.join(folder, shards.VOCABULARY), content)
  reports = [_report(folder, number) for number in range(len(plan.shards))]
  content_bytes = sum(report.pop("content_bytes") for report in reports)
  index = shards.Index(
    dtype=dtype_of(found).name,
    vocab_size=found.vocab_size,
    separator=found.separator,
    separator_name=found.separator_name,
    tokenizer=found.identity,
    source=source,
    shards=reports,
    content_bytes=content_bytes,
  )
  if not content_bytes:
    raise ValueError("the files hold no document: check --files, --documents")
  files.replace(os.path.join(folder, shards.INDEX), index.to_json())
  for number in range(len(plan.shards)):
    os.unlink(shards.shard_path(folder, number, "json"))
  os.unlink(os.path.join(folder, shards.PLAN))
  return index


def _others(folder: str) -> UserError:
  return UserError(
    f"--output={folder} holds the tokens of other files or other settings: give"
    " another --output, or remove the folder"
  )


def _claim(folder: str, source: str) -> None:
  """Marks the folder as that of a plan, and removes unfinished files."""
  path = os.path.join(folder, shards.PLAN)
  if not os.path.exists(path):
    if any(name != lock.FILE_NAME for name in os.listdir(folder)):
      raise UserError(f"--output={folder} is not empty: give another folder")
    files.replace(path, json.dumps({"source": source}).encode())
  elif json.loads(files.read(path))["source"] != source:
    raise _others(folder)
  for name in os.listdir(folder):
    if re.fullmatch(
      r"\.(shard-\d+|index|tokenizer|vocabulary)\.\w+\.[0-9a-f]{16}", name
    ):
      os.unlink(os.path.join(folder, name))


def _report(folder: str, number: int) -> dict[str, Any]:
  with open(shards.shard_path(folder, number, "json"), "rb") as file:
    return json.load(file)


def _write_all(plan: Plan, folder: str, processes: int) -> None:
  """Writes the missing shards in several processes, and shows the progress."""
  sizes = [sum(part.size for part in shard) for shard in plan.shards]
  # The largest first, so that no process is left alone with one at the end.
  missing = [
    number
    for number in sorted(range(len(sizes)), key=lambda i: -sizes[i])
    if not os.path.exists(shards.shard_path(folder, number, "json"))
  ]
  done = sum(sizes) - sum(sizes[number] for number in missing)
  with contextlib.ExitStack() as stack:
    bar = stack.enter_context(
      tqdm.tqdm(total=sum(sizes), initial=done, unit="B", unit_scale=True)
    )
    if not missing:
      return
    # A fork would copy the locks of threads that are running here.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", done)
    count = min(processes, len(missing))
    begin = (plan, folder, counter)
    pool = stack.enter_context(
      futures.ProcessPoolExecutor(count, context, _begin, begin)
    )
    stack.enter_context(_ended_on_error())
    left = {pool.submit(_work, number) for number in missing}
    while left:
      ready, left = futures.wait(left, 0.2, futures.FIRST_COMPLETED)
      errors = [line for future in ready if (line := future.result())]
      if errors:
        raise ValueError(errors[0])
      bar.update(counter.value - bar.n)


@contextlib.contextmanager
def _ended_on_error() -> Iterator[None]:
  """Ends the workers on an error or an interrupt: a shard may take minutes."""
  try:
    yield
  except BaseException as error:
    for child in multiprocessing.active_children():
      child.kill()
    if isinstance(error, futures.process.BrokenProcessPool):
      raise RunError(
        "a process that tokenised has ended, perhaps for lack of memory: the"
        " same command continues; try fewer --processes"
      ) from error
    raise


def read_flags(argv: Sequence[str]) -> Options:
  """Returns the flags of the command line.

  Raises:
    UserError: A flag is unknown, wrong or missing.
  """
  usage = "python -m train.data.tokenize --files PATH ... --output DIR"
  about = (
    "Writes text files as shards of tokens. The same command again continues"
    " after an interruption."
  )
  (options,), stray = flags.parse((Options(),), argv, usage=usage, about=about)
  flags.refuse(stray)
  for name in ("files", "output"):
    if not getattr(options, name):
      raise UserError(f"--{name} is missing: {usage}")
  flags.in_range("--shard-mb", options.shard_mb, 1, 1 << 16)
  flags.in_range("--processes", options.processes, 1, 1 << 16)
  if options.documents not in KINDS:
    raise UserError(
      f"--documents is {shown(options.documents)}, but must be one of"
      f" {', '.join(KINDS)}"
    )
  return options


def _run(argv: Sequence[str]) -> int:
  options = read_flags(argv)
  folder = paths.local("--output", options.output)
  found = tuple(paths.local("--files", path) for path in options.files)
  options = dataclasses.replace(options, files=found)
  processes = options.processes or len(os.sched_getaffinity(0))
  try:
    plan = make_plan(options)
    os.makedirs(folder, exist_ok=True)
    with lock.held(folder):
      index = tokenize(plan, folder, processes)
  except ValueError as error:
    raise UserError(one_line(error)) from error
  except FileExistsError as error:
    raise UserError(f"--output={folder} is a file") from error
  tokens = sum(shard["tokens"] for shard in index.shards)
  documents = sum(shard["documents"] for shard in index.shards)
  log(
    f"{folder}: {tokens:,} tokens in {documents:,} documents, vocabulary"
    f" {index.vocab_size}, {index.content_bytes / tokens:.3f} bytes per token"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
