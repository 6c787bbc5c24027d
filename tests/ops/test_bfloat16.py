"""Low precision inputs: summed in float32, so as good as token by token."""

import jax
import numpy as np
import pytest

from jaxmodels.testing import relative_error
from jaxmodels.testing.cases import resets
from jaxmodels.testing.evaluate import Evaluator, Run, round_to
from jaxmodels.testing.examples import OPS
from tests.ops.test_matrix import VARIANTS

LENGTH = 44
# Float32 rounds too, and may do so more in chunks: a few of its steps.
FLOOR = 2e-6
NAMES = [
  name
  for name, record in OPS.items()
  if record.has_state and "complex" not in name and not record.options
]
FAST = ["delta_rule"]


def runs(draw):
  """With and without resets; one program for both."""
  drawn = round_to(draw(np.random.default_rng(0), LENGTH), "bfloat16")
  for name in ("none", "everywhere"):
    ids = resets(LENGTH, 8)[name]
    yield Run(LENGTH, name, ids, "bfloat16", drawn, seed=0)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(
      n,
      marks=()
      if n in FAST
      else (pytest.mark.slow, *[pytest.mark.exhaustive] * (n in VARIANTS)),
    )
    for n in NAMES
  ],
)
def test_bfloat16(name):
  """Within 2e-2 of float64, and 1.5 times what the recurrent form is off."""
  record = OPS[name]
  truth = Evaluator(record.definition)
  forms = {
    form: Evaluator(record.op, form, chunk_size=8)
    for form in ("recurrent", "chunked", "chunk_parallel")
  }
  for run in runs(record.draw_length):
    cotangents, wanted = run.truth(truth)
    errors = {}
    for form, evaluate in forms.items():
      got = evaluate(run.arguments, run.ids, cotangents)
      errors[form] = jax.tree.map(relative_error, got, wanted)
    own = errors.pop("recurrent")
    for form, found in errors.items():
      for what, error in found.items():
        allowed = min(2e-2, max(1.5 * own[what], FLOOR))
        assert error <= allowed, (form, run.resets, what, error, own[what])
