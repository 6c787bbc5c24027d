"""Finds a hidden goal."""

from jaxmodels.models import RecurrentPolicy
from train.reinforcement import HiddenGoal, ReinforcementConfig


def get_config() -> ReinforcementConfig:
  """One layer of S5."""
  environment = HiddenGoal(places=9, trials=6, trial_steps=8)
  return ReinforcementConfig(
    model=RecurrentPolicy(actions=3, width=32, depth=1, mixers=("s5",)),
    environment=environment,
    rollout_steps=environment.horizon,
    updates=60,
    eval_every=10,
  )
