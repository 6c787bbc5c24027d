"""The records of an op and of a mixer."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxmodels.ops.engine.recurrence import Method

__all__ = ["ENGINE", "TRANSITIONS", "MixerExample", "OpExample", "Sizes"]

# The forms of every op of the engine.
ENGINE: tuple[str, ...] = typing.get_args(Method)
# The classes of a state's transition. "inherited" is that of another mixer,
# and "none" that of a mixer without a recurrence.
TRANSITIONS = (
  "scalar",
  "diagonal",
  "diagonal plus low rank",
  "dense",
  "nonlinear",
  "inherited",
  "none",
)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and ranges of drawn arguments.

  The defaults are small, for tests, with numbers that a form may get wrong:
  betas up to 2 and decays that forget within a chunk.

  Attributes:
    batch: B.
    length: L.
    heads: H; there are H K channels where an op has no heads.
    width: K.
    values: V; K by default.
    small: N, the width of states that are vectors.
    steps: M, of the Householder products.
    decay: Mean of minus the log decay.
    beta: Largest write strength of the delta rule.
  """

  batch: int = 2
  length: int = 44
  heads: int = 2
  width: int = 8
  values: int | None = 6
  small: int = 4
  steps: int = 2
  decay: float = 1.0
  beta: float = 2.0

  @property
  def value_width(self) -> int:
    """V."""
    return self.values or self.width

  @property
  def channels(self) -> int:
    """H K."""
    return self.heads * self.width

  @property
  def tokens(self) -> int:
    """B L."""
    return self.batch * self.length


Draw = Callable[[np.random.Generator, Sizes], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class OpExample:
  """An op with one kind of arguments.

  Attributes:
    name: Name of the record: the op's, and the kind of arguments.
    op: The op, from `jaxmodels.ops`.
    definition: Its definition in `jaxmodels.ops.reference`.
    draw: `(rng, sizes) -> arguments` in float64, `initial_state` among them if
      the op takes one.
    whole: Arguments without a length axis, which every device has whole.
    options: Keywords that the op and its definition get besides.
    methods: The forms that the op takes as `method`.
    flops: `(sizes, C) -> flops per token` of the chunked forward pass, as the
      docstring states them; None if they are stated otherwise.
    flops_on_tpu: The same with the ladders of a TPU, where they differ.
    equation: One line for the table of ops, in Markdown.
  """

  name: str
  op: Callable[..., Any]
  definition: Callable[..., Any]
  draw: Draw
  whole: tuple[str, ...] = ()
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  methods: tuple[str, ...] = ENGINE
  flops: Callable[[Sizes, int], float] | None = None
  flops_on_tpu: Callable[[Sizes, int], float] | None = None
  equation: str = ""

  def arguments(
    self, length: int, seed: int = 0, sizes: Sizes | None = None
  ) -> dict[str, Any]:
    """Drawn arguments of a length, in float64."""
    sizes = dataclasses.replace(sizes or Sizes(), length=length)
    return self.draw(np.random.default_rng(seed), sizes)

  def draw_length(self, rng: np.random.Generator, length: int) -> Any:
    """As `check_op` draws: small arguments of a length."""
    return self.draw(rng, Sizes(length=length))

  @property
  def has_state(self) -> bool:
    """Whether the op takes an initial state: it then has every form."""
    return "initial_state" in self.arguments(1)

  @property
  def matrix_state(self) -> bool:
    """Whether the state is a matrix [K, V] per head."""
    state = self.arguments(1).get("initial_state")
    state = jax.tree.leaves(state)[0] if state is not None else None
    shape = (Sizes.batch, Sizes.heads, Sizes.width, Sizes.values)
    return state is not None and state.shape == shape


@dataclasses.dataclass(frozen=True)
class MixerExample:
  """A mixer with some options.

  Attributes:
    name: Name of the record.
    mixer: The key of `jaxmodels.mixers.MIXERS`.
    plain: The equation of the paper: `(params, x, layer) -> y` of one
      document x [L, D], a loop in float64; params are a nested dict.
    options: Fields of the tested layer, with small sizes.
    equation: One line for the table of mixers, in Markdown.
    transition: The class of the state's transition, one of `TRANSITIONS`; what
      else is to say about it follows a colon, such as "scalar: fixed".
    paper: Authors, year, arXiv id, as "Yang et al. 2023, arXiv:2312.06635".
    causal: False for a mixer that reads later tokens on purpose, and so has no
      state to continue from.
  """

  name: str
  mixer: str
  plain: Callable[[Any, np.ndarray, Any], np.ndarray]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  equation: str = ""
  transition: str = ""
  paper: str = ""
  causal: bool = True

  @property
  def listed(self) -> bool:
    """Whether the table of mixers has a row of it: one record per name has."""
    return bool(self.equation)
