import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxmodels.mixers import GLA, RetNet
from jaxmodels.models import LanguageModel, count_parameters, equal_width


class Square(nn.Module):
  """A model of width^2 parameters; its width must be a multiple of `step`."""

  width: int
  step: int = 1

  @nn.compact
  def __call__(self, x):
    if self.width % self.step:
      raise ValueError(f"width must be a multiple of {self.step}")
    return nn.Dense(self.width, use_bias=False)(x)


@pytest.mark.parametrize("step", [1, 4, 12])
@pytest.mark.parametrize("target", [1, 25, 26, 100, 103, 5000, 10**6])
def test_the_nearest_of_all_widths_that_the_model_accepts(step, target):
  widths = range(step, 1100, step)
  nearest = min(widths, key=lambda w: (abs(w * w - target), w))
  assert equal_width(lambda w: Square(w, step), target) == nearest


@pytest.mark.slow
def test_two_mixers_of_equal_size():
  target = RetNet(width=48, heads=2)
  variables = target.init(jax.random.key(0), jnp.zeros((1, 3, 48)))
  size = sum(x.size for x in jax.tree.leaves(variables["params"]))
  assert count_parameters(target) == size
  width = equal_width(lambda d: GLA(width=d, heads=4), target)
  # GLA's heads must divide D / 2.
  assert width % 8 == 0
  sizes = {
    d: count_parameters(GLA(width=d, heads=4))
    for d in (width - 8, width, width + 8)
  }
  assert sizes[width - 8] < size < sizes[width + 8]
  assert width == min(sizes, key=lambda d: abs(sizes[d] - size))


def test_two_models_of_equal_size():
  def model(width, mixer):
    return LanguageModel(50, width, 1, (mixer,))

  target = model(32, ("gla", {"heads": 2}))
  width = equal_width(lambda d: model(d, "s5"), target)
  wanted = count_parameters(target)
  sizes = {
    d: count_parameters(model(d, "s5")) for d in range(width - 1, width + 2)
  }
  assert sizes[width - 1] < wanted < sizes[width + 1]
  assert width == min(sizes, key=lambda d: abs(sizes[d] - wanted))


def test_inputs_of_another_shape():
  # Two numbers per position, whatever the width is.
  def model(width):
    return nn.Dense(width)

  def inputs(width):
    return jax.ShapeDtypeStruct((1, 4, 2), jnp.float32)

  assert equal_width(model, 30, inputs=inputs) == 10
  with pytest.raises(ValueError, match="neither vocab_size nor width"):
    count_parameters(nn.Dense(3))


def test_a_target_that_no_width_reaches():
  def refuse(width):
    raise ValueError("never")

  with pytest.raises(ValueError, match="has 10 parameters") as caught:
    equal_width(refuse, 10)
  assert str(caught.value.__cause__) == "never"
