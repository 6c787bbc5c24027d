"""Documents as tokens of a tokenizer, in memory."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from train.data import shards
from train.data.documents import naming
from train.data.tokenizer import Tokenizer
from train.data.tokens import PackedTokens, Source, Tokens


def open_documents(
  documents: Iterable[bytes],
  names: Sequence[str],
  codec: Tokenizer,
  length: int,
) -> PackedTokens:
  """Encodes documents, lays them end to end, and cuts them into rows.

  Args:
    documents: The bytes of at least one document.
    names: Their names.
    codec: The tokenizer.
    length: Tokens per row, L.

  Raises:
    ValueError: A document is not text in UTF-8.
  """
  kind = np.uint16 if codec.vocab_size <= 1 << 16 else np.uint32
  content = hashlib.blake2b(codec.identity.encode(), digest_size=16)
  tokens, places, excess, starts = [], [], [], [0]
  for name, document in zip(names, documents, strict=True):
    with naming(name):
      found = codec.encode_exactly(document)
    places.append(found.places + starts[-1])
    excess.append(found.excess)
    tokens.append(found.tokens.astype(kind))
    starts.append(starts[-1] + len(found.tokens))
    content.update(repr((name, len(found.tokens))).encode(errors="replace"))
    content.update(tokens[-1].astype("<u4").tobytes())
  stream = shards.Stream(
    [np.concatenate(tokens)], [np.array(starts[:-1])], codec.separator
  )
  known = shards.Content(
    codec.vocabulary(), np.concatenate(places), np.concatenate(excess)
  )
  source = Source(
    stream,
    codec.vocab_size,
    codec,
    content.hexdigest(),
    [len(stream)],
    lambda: known,
  )
  return PackedTokens(source, 0, len(stream), Tokens(length=length))


def whole_characters(content: bytes) -> bytes:
  """Returns a part of a text in UTF-8 without cut characters at its ends."""
  start, stop = 0, len(content)
  while start < stop and content[start] & 0xC0 == 0x80:
    start += 1
  # The last character begins at most four bytes before the end.
  for last in range(stop - 1, max(stop - 5, start - 1), -1):
    if content[last] & 0xC0 != 0x80:
      lead = content[last]
      size = 1 + sum(lead >= least for least in (0xC0, 0xE0, 0xF0))
      stop = last if last + size > stop else stop
      break
  return content[start:stop]
