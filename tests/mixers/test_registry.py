import functools

import pytest

from jaxmodels.mixers import GLA, MIXERS, Mixer
from jaxmodels.mixers.registry import UnknownNameError, make_mixer, pick


def test_an_unknown_name_can_be_told_from_other_mistakes():
  with pytest.raises(UnknownNameError, match=r"unknown mixer 'glaa'.*'gla'"):
    make_mixer("glaa", {}, width=8)
  with pytest.raises(UnknownNameError, match="unknown remat 'x'"):
    pick("remat", "x", {"full": None})
  with pytest.raises(ValueError, match="unknown field 'heds'") as error:
    make_mixer("gla", {"heds": 2}, width=8)
  assert not isinstance(error.value, UnknownNameError)


def test_a_registered_thing_must_be_a_module(monkeypatch):
  monkeypatch.setitem(MIXERS, "half", functools.partial(GLA, heads=2))
  assert make_mixer("half", {}, width=8).heads == 2
  for wrong, words in (
    (lambda width: None, "is registered as a layer, but makes None"),
    (3, "3 is registered as a layer, but makes none"),
    (functools.partial(print), "print has no field width"),
  ):
    monkeypatch.setitem(MIXERS, "wrong", wrong)
    with pytest.raises(ValueError, match=words):
      make_mixer("wrong", {}, width=8)


@pytest.mark.parametrize("name", MIXERS)
def test_every_name_is_a_class_with_help_of_its_own(name):
  mixer = MIXERS[name]
  assert isinstance(mixer, type) and issubclass(mixer, Mixer)
  assert "arXiv:" in mixer.__dict__["__doc__"]
  assert list(MIXERS.values()).count(mixer) == 1
