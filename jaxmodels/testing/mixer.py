"""`check_mixer` checks the layer contract of a sequence mixer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn

from jaxmodels.mixers import contract
from jaxmodels.testing import sizes
from jaxmodels.testing.compilation import quick_to_compile
from jaxmodels.testing.diagnosis import FUTURE
from jaxmodels.testing.trial import BATCH, Trial, has_field

_FUTURE_SKIPPED = (
  "not checked, since the mixer reads the future: the zero state, cut and "
  "continued, by tokens"
)
_ON_PURPOSE = "if it is meant to, give check_mixer causal=False"


def check_mixer(
  module: nn.Module,
  *,
  width: int | None = None,
  length: int = 20,
  methods: Sequence[str] = (),
  params: Any = None,
  bfloat16: bool = True,
  causal: bool = True,
  seed: int = 0,
  verbose: bool = True,
) -> None:
  """Checks that a Linen mixer keeps the layer contract.

  A mixer is `mixer(x, state=None, *, segment_ids=None) -> (y, state)` with
  `init_state(batch_size)`. The function checks that
    - y and the state have the right shapes and dtypes;
    - the arguments that it passes to ops satisfy their guards (finite, log
      decays at most 0, ...: see `jaxmodels.ops.engine.checks`);
    - no gradient comes from the future or from another document, and the
      gradient of every parameter is finite and not zero;
    - None as the state equals the zero state;
    - a sequence split in four calls, or run token by token, gives the results
      of one call, also with documents that continue from call to call;
    - packed documents give the results of the same documents run separately;
    - each of `methods` gives the values and the gradients of "recurrent";
    - with dtype bfloat16 its error is not larger than that of its own recurrent
      form in bfloat16, nor much larger than the error from rounding only its
      inputs and parameters; and its state is not narrower than float32.

  By default this takes under five seconds of CPU for a width of 16, most of it
  for compiling. It then runs only the module's own method and single tokens. To
  find a fault of another form, pass `methods=jaxmodels.testing.FORMS`, which
  compiles a gradient per form.

  Prints one line per check when it ends, and the reason for each skipped check.
  At the end it prints the sizes of y and of the gradients, and the memory in
  tokens: see `jaxmodels.testing.sizes`.

  Args:
    module: unbound, with the fields of its intended use. If its field
      `chunk_size` is None, it is set to 8, so that there are several chunks.
    width: width of x; `module.width` by default.
    length: L, a multiple of four, at least 20.
    methods: forms to compare with "recurrent", if the module has them. If
      there are none, the module's own method is checked.
      "sequence-parallel" is "chunked" with the sequence sharded over four
      devices, or over two.
    params: parameters of the module. By default the initial ones with noise,
      so that none has a special value, such as a bias of zero.
    bfloat16: whether to check that dtype, for a module with a field `dtype`.
    causal: False for a mixer that reads the future on purpose, such as a
      bidirectional one. This skips the checks that hold only for causal
      mixers: the future, the zero state, several calls, token by token. Packed
      documents, gradients, methods and dtypes are still checked.
    seed: seed of the inputs.
    verbose: whether to print.

  Raises:
    AssertionError: reports the failures, their places, and the likely cause.
  """
  name = type(module).__name__
  heading = f"{name} breaks the contract of a mixer."
  size = width or getattr(module, "width", None)
  if size is None:
    raise ValueError(f"check_mixer: {name} has no field width; give width=")
  report = _Report(verbose)
  report.say(f"{name}, x [{BATCH}, {length}, {size}]")
  with quick_to_compile():
    try:
      trial = Trial(module, size, length, params, seed, causal)
    except contract.ContractError as error:
      raise AssertionError(f"{heading}\n{error}") from error
    _check(trial, methods, bfloat16, report)
    if report.failures:
      raise AssertionError("\n".join([heading, *report.failures]))
    if verbose:
      report.say(sizes.describe(sizes.measure(trial)))


def _check(
  trial: Trial, methods: Sequence[str], bfloat16: bool, report: "_Report"
) -> None:
  """Runs all checks, the most informative first."""
  report.add("shapes, dtypes and numeric guards", ())
  _forms(trial, methods, report)
  reads_future = any(FUTURE in line for line in report.failures)
  acausal = reads_future or not trial.causal
  if acausal:
    report.say(_FUTURE_SKIPPED)
  else:
    wrong = report.add("cut and continued", trial.pieces(trial.length // 4))
    if report.add("by tokens", trial.pieces(1)) or wrong:
      report.add("no state is the zero state", trial.no_state())
  report.add("packed against separate", trial.documents(acausal))
  if bfloat16 and has_field(trial.module, "dtype"):
    report.add("bfloat16", trial.bfloat16())
  else:
    reason = "the module has no field dtype" if bfloat16 else "not asked"
    report.say(f"bfloat16: skipped, {reason}")
  if report.failures and acausal:
    hint = f"; {_ON_PURPOSE}" if reads_future else ""
    report.failures.append(_FUTURE_SKIPPED + hint)


def _forms(trial: Trial, methods: Sequence[str], report: "_Report") -> None:
  """Checks the gradients of one form, and compares the others with it."""
  known = []
  for method in dict.fromkeys(methods):
    if reason := trial.why_not(method):
      report.say(f'method "{method}": skipped, {reason}')
    elif method != "recurrent":
      known.append(method)
  if known:
    for method, failures in trial.methods(known):
      report.add(f'gradients, method "{method}"', failures)
  else:
    report.add("gradients", trial.gradients())
  if not methods:
    report.say("other methods: skipped, methods=FORMS compares them")


class _Report:
  """The failures so far; prints them as they occur if `verbose`."""

  def __init__(self, verbose: bool):
    self.failures: list[str] = []
    self.say: Callable[[str], None] = print if verbose else lambda line: None

  def add(self, name: str, failures: Iterable[str]) -> list[str]:
    """Runs a check, which yields its failures, and returns them."""
    found = list(failures)
    self.failures += found
    self.say(f"{name}: {'WRONG' if found else 'right'}")
    return found
