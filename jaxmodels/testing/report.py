"""Reports failed comparisons in groups, the most informative first."""

from collections.abc import Mapping, Sequence

from jaxmodels.testing.diagnosis import Outcome


def write(
  outcomes: Sequence[Outcome], guesses: Mapping[str, tuple[str, str]]
) -> str:
  """Writes the report on an op.

  Args:
    outcomes: all comparisons, right and wrong, simplest form first.
    guesses: the pattern and its evidence per wrong form.

  Returns:
    one paragraph per pattern, for all forms that fail alike. Failures of the
    simplest form come first, because the others are built like it.
  """
  failed = [o for o in outcomes if o.wrong]
  groups: dict[tuple[str, str], list[str]] = {}
  for form, guess in guesses.items():
    groups.setdefault(guess, []).append(form)
  right = [f for f in _unique(o.form for o in outcomes) if f not in guesses]
  paragraphs = [
    f"{len(failed)} of {len(outcomes)} comparisons with the definition failed."
  ]
  for (pattern, evidence), forms in groups.items():
    own = [o for o in outcomes if o.form in forms]
    paragraphs.append(f"{', '.join(forms)}: {pattern}; {evidence}.")
    paragraphs += [f"  {line}" for line in _facts(own)]
  if right:
    paragraphs.append(f"right: {', '.join(right)}.")
  return "\n".join(paragraphs)


def _facts(outcomes):
  """Lines on one group: its simplest failure, then the others."""
  failed = [o for o in outcomes if o.wrong]
  plainest = min(
    failed,
    key=lambda o: (o.is_gradient, o.has_resets, o.first is None, o.length),
  )
  yield describe(plainest)
  worst: dict[str, float] = {}
  for o in failed:
    worst[o.what] = max(o.error, worst.get(o.what, 0.0))
  yield "wrong: " + ", ".join(f"{w} ({e:.1e})" for w, e in worst.items())
  fine = [w for w in _unique(o.what for o in outcomes) if w not in worst]
  if fine:
    yield "right: " + ", ".join(fine)
  for name in ("length", "resets", "dtype"):
    bad = _unique(getattr(o, name) for o in failed)
    good = [
      v for v in _unique(getattr(o, name) for o in outcomes) if v not in bad
    ]
    if good:
      yield f"{name}: wrong at {_join(bad)}; right at {_join(good)}"


def describe(outcome: Outcome) -> str:
  """Describes one comparison."""
  first = ""
  if outcome.first is not None:
    first = f", first at token {outcome.first}"
  return (
    f"{outcome.what} is off by {outcome.error:.1e} (allowed "
    f"{outcome.tolerance:.0e}){first}: {outcome.form}, length "
    f"{outcome.length}, resets: {outcome.resets}, {outcome.dtype}"
  )


def _unique(items):
  return list(dict.fromkeys(items))


def _join(items):
  return ", ".join(map(str, items))
