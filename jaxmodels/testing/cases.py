"""The test cases of an op or mixer: forms, lengths, resets."""

import numpy as np

# Simplest first. The last is "chunked" inside `shard_map`.
SHARDED = "sequence-parallel"
FORMS = ("recurrent", "associative", "chunked", "chunk_parallel", SHARDED)


def lengths(chunk: int) -> tuple[int, ...]:
  """Lengths near the edges of a chunk, and one for four devices."""
  edges = (1, 2, chunk - 1, chunk, chunk + 1, 3 * chunk + 5)
  return (*edges, 4 * (chunk + 3), 63)


def resets(length: int, chunk: int) -> dict[str, np.ndarray | None]:
  """Segment ids [L] by name, with documents or episodes."""
  places = {
    "none": [],
    "at the first token": [0],
    "inside a chunk": [chunk // 2 + 1],
    "at a chunk's edge": [chunk],
    "everywhere": [0, 1, 2, chunk - 1, chunk, chunk + 3, 2 * chunk + 1],
  }
  ids: dict[str, np.ndarray] = {}
  for name, at in places.items():
    starts = np.zeros(length, np.int32)
    starts[[t for t in at if t < length]] = 1
    ids[name] = np.cumsum(starts, dtype=np.int32)
  # Missing ids: empty documents between the others.
  ids["with empty segments"] = 3 * ids["everywhere"]
  # Repeated ids: each run is another segment.
  ids["that come back"] = ids["everywhere"] % 2
  padded = np.where(np.arange(length) < length - 3, ids["inside a chunk"], 0)
  ids["padding of 0"] = padded
  ids["padding of -1"] = np.where(np.arange(length) < length - 3, padded, -1)
  return {"no segment ids": None, **ids}
