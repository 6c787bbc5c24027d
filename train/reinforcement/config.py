"""What a run of reinforcement learning is: one frozen dataclass."""

import dataclasses

from jaxmodels.models import RecurrentPolicy
from train.config.checks import MOST, MOST_SEED, is_count, require
from train.config.optimizer_base import Optimizer
from train.config.optimizers import AdamW
from train.config.schedules import Constant
from train.errors import UserError
from train.flags import annotations
from train.reinforcement.environments import Environment
from train.reinforcement.ppo import Ppo
from train.trackers import MODULES as TRACKERS


def _adamw() -> AdamW:
  """The usual optimizer of a policy: no decay of the weights, a small clip."""
  return AdamW(
    learning_rate=3e-3,
    warmup_steps=0,
    schedule=Constant(),
    weight_decay=0.0,
    clip=0.5,
  )


@dataclasses.dataclass(frozen=True)
class ReinforcementConfig:
  """One run.

  Attributes:
    model: The policy; its `actions` are those of the environment.
    environment: An environment of `train.reinforcement.environments`, or
      another subclass of its `Environment`.
    algorithm: The options of proximal policy optimization.
    optimizer: An optimizer of `train.config`. Its steps are gradient steps:
      `algorithm.epochs` times `algorithm.minibatches` per update.
    updates: Updates in the run.
    environments: Environments that run at the same time.
    rollout_steps: Steps of each environment per update.
    seed: Of the parameters, the episodes, the actions, and the minibatches.
    log_every: Updates between lines of training metrics.
    eval_every: Updates between evaluations; the last update always has one.
    eval_episodes: Episodes per evaluation. It takes the likeliest actions, in
      the hardest episodes of the environment.
    checkpoint_every: Updates between checkpoints; the last update has one.
    keep: How many of the latest checkpoints stay, beside the best one.
    trackers: Services that also get the metrics of `metrics.jsonl`.
  """

  model: RecurrentPolicy
  environment: Environment
  algorithm: Ppo = dataclasses.field(default_factory=Ppo)
  optimizer: Optimizer = dataclasses.field(default_factory=_adamw)
  updates: int = 100
  environments: int = 64
  rollout_steps: int = 128
  seed: int = 0
  log_every: int = 10
  eval_every: int = 25
  eval_episodes: int = 512
  checkpoint_every: int = 100
  keep: int = 1
  trackers: tuple[str, ...] = ()


def validate(config: ReinforcementConfig) -> None:
  """Checks every value of a config that can be wrong.

  Raises:
    UserError: Names the first key that is wrong, its value, and what it
      must be.
  """
  annotations.check(config, "config")
  counts = ("updates", "environments", "rollout_steps", "log_every")
  others = ("eval_every", "eval_episodes", "checkpoint_every", "keep")
  for key in (*counts, *others):
    count = getattr(config, key)
    require(is_count(count), key, count, f"1 to {MOST}")
  require(
    0 <= config.seed <= MOST_SEED, "seed", config.seed, f"0 to {MOST_SEED}"
  )
  config.environment.check("environment")
  config.algorithm.check("algorithm", config.environments)
  config.optimizer.check()
  actions = config.environment.actions
  require(
    config.model.actions == actions,
    "model.actions",
    config.model.actions,
    f"{actions}, as many as the environment has",
  )
  if config.model.scan_layers:
    # The states of scanned layers do not start with the axis of environments.
    raise UserError("config.model.scan_layers must be False here")
  for name in config.trackers:
    require(name in TRACKERS, "trackers", name, f"one of {', '.join(TRACKERS)}")
