"""Any sequence, cut anywhere, with any resets: what the equations say."""

import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxmodels import ops
from jaxmodels.testing import relative_error

HEADS, KEYS, VALUES = 1, 3, 2
# Few lengths of pieces and few chunk sizes, so that few programs are compiled.
LENGTHS = (0, 1, 5, 13)
CHUNKS = (2, 16)
few = hypothesis.settings(
  max_examples=15,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
both = pytest.mark.parametrize(
  "name",
  [pytest.param("linear_attention", marks=pytest.mark.slow), "delta_rule"],
)
pieces = st.lists(
  st.tuples(st.sampled_from(LENGTHS), st.sampled_from(CHUNKS)),
  min_size=1,
  max_size=3,  # 39 tokens at most.
)


def draw(name, length, seed):
  rng = np.random.default_rng(seed)
  shape = (1, length, HEADS)
  k = rng.standard_normal((*shape, KEYS))
  drawn = {
    "q": rng.standard_normal((*shape, KEYS)),
    "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
    "v": rng.standard_normal((*shape, VALUES)),
    "log_decay": -rng.exponential(size=shape),
  }
  if name == "delta_rule":
    drawn["beta"] = rng.uniform(0, 2, shape)
  state = rng.standard_normal((1, HEADS, KEYS, VALUES))
  return jax.tree.map(np.float32, (drawn, state))


def by_the_equation(drawn, state, ids, reverse):
  """One row and head, token by token, in numpy and float64."""
  tokens = {k: np.float64(x)[0, :, 0] for k, x in drawn.items()}
  state, order = np.float64(state)[0, 0], range(len(ids))
  order = order[::-1] if reverse else order
  before = (ids[-1] if reverse else 0) if len(ids) else 0
  y = np.zeros_like(tokens["v"])
  for t in order:
    q, k, v = (tokens[name][t] for name in "qkv")
    state = np.exp(tokens["log_decay"][t]) * state * (ids[t] == before)
    write = v
    if "beta" in tokens:
      write = tokens["beta"][t] * (v - k @ state)
    state = state + np.outer(k, write)
    y[t], before = q @ state, ids[t]
  return y[None, :, None], state[None, None]


@functools.cache
def compiled(name, chunk, reverse):
  call = functools.partial(getattr(ops, name), method="chunked")
  return jax.jit(functools.partial(call, chunk_size=chunk, reverse=reverse))


def close(got, wanted):
  if wanted.size == 0:
    return got.shape == wanted.shape
  return relative_error(got, wanted) < 2e-5


@both
@few
@hypothesis.given(
  pieces=pieces,
  starts=st.sets(st.integers(0, 38), max_size=5),
  reverse=st.booleans(),
  seed=st.integers(0, 3),
)
def test_pieces_give_the_whole(name, pieces, starts, reverse, seed):
  ends = np.cumsum([length for length, _ in pieces])
  total = int(ends[-1])
  drawn, state = draw(name, total, seed)
  ids = np.cumsum([t in starts for t in range(total)]).astype(np.int32)
  wanted, final = by_the_equation(drawn, state, ids, reverse)
  # The id that the state belongs to. In reverse it enters with the last
  # token's, and what another segment left is dropped by hand.
  own = (ids[-1] if reverse else 0) if total else 0
  outputs = []
  for (length, chunk), end in list(zip(pieces, ends, strict=True))[
    :: -1 if reverse else 1
  ]:
    span = slice(end - length, end)
    part = ids[span]
    if reverse and length and part[-1] != own:
      state = 0 * state
    y, state = compiled(name, chunk, reverse)(
      **{k: x[:, span] for k, x in drawn.items()},
      initial_state=state,
      segment_ids=(part - (0 if reverse else own))[None],
    )
    outputs.append(y)
    if length:
      own = part[0 if reverse else -1]
  outputs = outputs[::-1] if reverse else outputs
  assert close(np.concatenate(outputs, 1), wanted)
  assert close(state, final)


@both
@few
@hypothesis.given(pieces=pieces, seed=st.integers(0, 3))
def test_documents_alone_are_the_packed_ones(name, pieces, seed):
  ends = np.cumsum([length for length, _ in pieces])
  drawn, state = draw(name, int(ends[-1]), seed)
  ids = np.repeat(np.arange(len(pieces)), [length for length, _ in pieces])
  wanted, _ = by_the_equation(drawn, 0 * state, ids, reverse=False)
  for (length, chunk), end in zip(pieces, ends, strict=True):
    span = slice(end - length, end)
    y, _ = compiled(name, chunk, False)(
      **{k: x[:, span] for k, x in drawn.items()},
      initial_state=0 * state,
      segment_ids=np.zeros((1, length), np.int32),
    )
    assert close(y, wanted[:, span])
