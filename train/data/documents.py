"""Which documents each shard of `train.data.tokenize` holds."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence

from train.data import corpus
from train.errors import one_line


@dataclasses.dataclass(frozen=True)
class Plan:
  """What makes the shards what they are; kept until the index is written.

  Attributes:
    tokenizer: Path of the tokenizer's file; "" for bytes.
    separator: Its token that begins a document; "" for a new one.
    documents: What a document is: "file", "line" or "json".
    field: Which entry of a JSON line is the text.
    shards: For each shard the stretches of files that it is made of.
  """

  tokenizer: str
  separator: str
  documents: str
  field: str
  shards: Sequence[Sequence[corpus.Document]]

  def digest(self, identity: str) -> str:
    """Returns a number, in hexadecimal, of the names, sizes and settings.

    Args:
      identity: Of the tokenizer.
    """
    parts = [
      [[part.name, part.start, part.stop] for part in shard]
      for shard in self.shards
    ]
    content = [identity, self.documents, self.field, parts]
    encoded = json.dumps(content).encode()
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


# What a document may be.
KINDS = ("file", "line", "json")


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of `python -m train.data.tokenize`.

  Attributes:
    files: Text files, or folders of them.
    output: Folder of the shards.
    pattern: Names to take in folders, such as "*.txt".
    tokenizer: A tokenizer.json; without it, the tokens are bytes.
    separator: The token of that file that begins a document.
    documents: What a document is: file, line, or json (one line of JSON).
    field: Entry of a JSON line that is the text.
    shard_mb: MiB of text per shard.
    processes: Processes to start; one per core by default.
  """

  files: tuple[str, ...] = ()
  output: str = ""
  pattern: str = "*"
  tokenizer: str = ""
  separator: str = ""
  documents: str = "file"
  field: str = "text"
  shard_mb: int = 64
  processes: int | None = None


def make_plan(options: Options) -> Plan:
  """Divides the files among shards.

  Args:
    options: The flags of the command.

  Raises:
    ValueError: A file is missing or cannot be read.
  """
  found = [
    dataclasses.replace(document, name=f"{number}/{document.name}")
    for number, path in enumerate(options.files)
    for document in corpus.find_documents(path, options.pattern)
  ]
  limit = options.shard_mb << 20
  if options.documents != "file":
    # Lines are shared out by the byte at which they begin.
    found = [
      dataclasses.replace(part, start=at, stop=min(at + limit, part.stop))
      for part in found
      for at in range(part.start, part.stop, limit)
    ]
  parts: list[list[corpus.Document]] = []
  size = limit
  for document in found:
    if size + document.size > limit:
      parts.append([])
      size = 0
    parts[-1].append(document)
    size += document.size
  return Plan(
    options.tokenizer,
    options.separator,
    options.documents,
    options.field,
    parts,
  )


def contents(plan: Plan, part: corpus.Document) -> Iterator[bytes]:
  """Yields the documents of a stretch of a file.

  Raises:
    ValueError: It cannot be read, or a line is no JSON with the field.
  """
  if plan.documents == "file":
    yield part.read()
    return
  try:
    with open(part.path, "rb") as file:
      # A line belongs to the stretch in which it begins.
      file.seek(max(part.start - 1, 0))
      if part.start:
        file.readline()
      while file.tell() < part.stop:
        at, line = file.tell(), file.readline()
        if not line:
          break
        if line.strip():
          is_json = plan.documents == "json"
          yield _text(plan, line, at) if is_json else line.rstrip(b"\r\n")
  except OSError as error:
    raise ValueError(f"cannot be read: {error.strerror}") from error


def _text(plan: Plan, line: bytes, at: int) -> bytes:
  try:
    return json.loads(line)[plan.field].encode()
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"the line at byte {at} is no JSON object with a text {plan.field!r}"
      f" ({one_line(error, 100)}): check --documents and --field"
    ) from error


def documents(plan: Plan, number: int) -> Iterator[tuple[object, bytes]]:
  """Yields the documents of a shard that are not empty, with their paths.

  Raises:
    ValueError: See `contents`.
  """
  for part in plan.shards[number]:
    with naming(part.path):
      for content in contents(plan, part):
        if content:
          yield part.path, content


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
  """Begins the line of a ValueError with a path."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{path}: {one_line(error)}") from error
