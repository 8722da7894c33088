"""The controller of one-shot search: what it samples, how it learns; `sharing.py` trains with it.

Each step samples architectures from independent logits, which REINFORCE moves on an absolute
reward. The architecture of the largest logits is the result.

Source: Bender et al. 2020 (TuNAS) and its released code, whose constants are the defaults.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from effnets import errors, streams
from effnets.search.algorithms import policies
from effnets.search.space import Space, When


@dataclasses.dataclass(frozen=True)
class Settings:
  """Constants of a search of `steps` steps.

  target: cost to meet, in the unit of the cost. slope: of the reward, accuracy + slope *
  |cost / target - 1|. learning_rate: of the controller, once it starts; TuNAS has 3e-4 for every
  256 images of a training batch.
  idle: share of the steps before the controller moves. growth: its rate at the end over that at the
  start. warmup: share of the steps over which the probability falls from 1 to 0 that all choices of
  the kinds `averaged` are on, and (drawn apart) that of the kinds `widened` the largest is.
  architectures: sampled at each step; every one has its own part of both batches.
  decay: of the baseline. entropy: bonus. beta1, beta2, epsilon: Adam's, of the controller.
  """

  steps: int
  target: float
  slope: float = -0.1
  learning_rate: float = 4.8e-3
  idle: float = 0.25
  growth: float = 10.0
  warmup: float = 0.25
  averaged: tuple[str, ...] = ("op", "kernel", "squeeze")
  widened: tuple[str, ...] = ("filters",)
  architectures: int = 1
  decay: float = 0.95
  entropy: float = 0.0
  beta1: float = 0.0
  beta2: float = 0.999
  epsilon: float = 1e-8

  def __post_init__(self):
    if self.steps < 1 or self.architectures < 1:
      raise errors.UserError(
        f"steps={self.steps}, architectures={self.architectures} have to be 1 or more."
      )
    if self.target <= 0 or self.slope >= 0:
      raise errors.UserError(f"target={self.target} has to be above 0, slope={self.slope} below.")
    if not (0 <= self.idle < 1 and 0 <= self.warmup <= 1):
      raise errors.UserError(f"idle={self.idle}, warmup={self.warmup} are shares of the steps.")


def controller_rate(settings: Settings, step: Int[Array, ""] | int) -> Float[Array, ""]:
  """Returns the controller's learning rate: nothing, then growing exponentially to the end.

  >>> settings = Settings(steps=100, target=1.0, learning_rate=0.01)
  >>> [round(float(controller_rate(settings, step)), 4) for step in (0, 24, 25, 100)]
  [0.0, 0.0, 0.01, 0.1]
  """
  done = jnp.asarray(step) / settings.steps
  progress = jnp.clip((done - settings.idle) / (1 - settings.idle), 0.0, 1.0)
  rate = settings.learning_rate * settings.growth**progress
  return jnp.where(done < settings.idle, 0.0, rate)


def warmup_chance(settings: Settings, step: Int[Array, ""] | int) -> Float[Array, ""]:
  """Returns how likely all operations, or the largest filters, are on at a step.

  >>> settings = Settings(steps=100, target=1.0)
  >>> [round(float(warmup_chance(settings, step)), 2) for step in (0, 10, 25, 80)]
  [1.0, 0.6, 0.0, 0.0]
  """
  if not settings.warmup:
    return jnp.zeros(())
  return jnp.clip(1 - jnp.asarray(step) / (settings.warmup * settings.steps), 0.0, 1.0)


class Baseline(NamedTuple):
  """The moving average of rewards: total over weight, both 0 before the first."""

  total: Float[Array, ""]
  weight: Float[Array, ""]


class Sampled(NamedTuple):
  """Architectures: tokens, and the weights of choices in training (with warm-up) and scoring."""

  tokens: Int[Array, "n d"]
  training: Float[Array, "n d k"]
  scoring: Float[Array, "n d k"]


def _largest(choices: Sequence[Any]) -> int:
  """Returns the place of the largest choice; 0 where they are no numbers."""
  numbers = all(isinstance(choice, int | float) for choice in choices)
  return int(np.argmax(choices)) if numbers else 0


class Searcher:
  """The controller's side of a one-shot search on a flat space."""

  def __init__(self, space: Space, settings: Settings):
    """Raises: UserError if what is valid depends on earlier choices."""
    if not space.flat:
      raise errors.UserError(
        f"the space {space.name!r} has choices that rule others out; one-shot search samples all "
        "decisions at once."
      )
    self.space, self.settings = space, settings
    self.mask = policies.Layout.of(space).mask()
    kinds = [decision.kind for decision in space.decisions]
    self._averaged = np.isin(kinds, settings.averaged)
    self._widened = np.isin(kinds, settings.widened)
    self._largest = np.array([_largest(d.choices) for d in space.decisions])
    index = {decision.name: place for place, decision in enumerate(space.decisions)}
    self._conditions = []
    for rule in getattr(space, "rules", ()):
      if isinstance(rule, When):
        choices = space.decisions[index[rule.on]].choices
        values = [choices.index(value) for value in rule.values]
        self._conditions.append((index[rule.name], index[rule.on], values))

  def sample(
    self, logits: Float[Array, "d k"], key: Key[Array, ""], step: Int[Array, ""]
  ) -> Sampled:
    """Returns the architectures of a step; key: of the search, the step is folded in."""
    key = jax.random.fold_in(streams.stream(key, "architectures"), step)
    draw, average, widen = jax.random.split(key, 3)
    shape = (self.settings.architectures, len(self.mask))
    logits = jnp.where(self.mask, logits, policies.NEVER)
    tokens = jax.random.categorical(draw, logits, shape=shape)
    chance = warmup_chance(self.settings, step)
    averaging = (jax.random.uniform(average, shape[:1]) < chance)[:, None]
    widening = (jax.random.uniform(widen, shape[:1]) < chance)[:, None]
    choices = self.mask.shape[1]
    trained = jnp.where(widening & self._widened, self._largest, tokens)
    even = self.mask / self.mask.sum(-1, keepdims=True)
    training = jnp.where(
      (averaging & self._averaged)[..., None], even, jax.nn.one_hot(trained, choices)
    )
    return Sampled(tokens, training, jax.nn.one_hot(tokens, choices))

  def active(self, tokens: Int[Array, "n d"]) -> Bool[Array, "n d"]:
    """Returns which decisions matter."""
    found = jnp.ones(tokens.shape, bool)
    for place, on, values in self._conditions:
      holds = found[:, on] & jnp.isin(tokens[:, on], jnp.array(values))
      found = found.at[:, place].set(found[:, place] & holds)
    return found

  def reward(self, accuracy: Float[Array, " n"], cost: Float[Array, " n"]) -> Float[Array, " n"]:
    """Returns the absolute reward; no gradient goes through it."""
    gap = jnp.abs(cost / self.settings.target - 1)
    return jax.lax.stop_gradient(accuracy + self.settings.slope * gap)

  def advantage(
    self, baseline: Baseline, rewards: Float[Array, " n"]
  ) -> tuple[Float[Array, " n"], Baseline]:
    """Returns rewards over their baseline, which moves first, also while the controller idles."""
    decay = self.settings.decay
    moved = Baseline(
      decay * baseline.total + (1 - decay) * rewards.mean(), decay * baseline.weight + 1 - decay
    )
    return rewards - moved.total / moved.weight, moved

  def loss(
    self, logits: Float[Array, "d k"], tokens: Int[Array, "n d"], advantage: Float[Array, " n"]
  ) -> Float[Array, ""]:
    """Returns what REINFORCE makes small, the bonus of entropy included."""
    whole = jnp.broadcast_to(logits, (tokens.shape[0], *logits.shape))
    logs, entropy = policies.log_probabilities(whole, tokens, self.mask, self.active(tokens))
    return -jnp.mean(advantage * logs.sum(-1)) - self.settings.entropy * entropy.sum(-1).mean()

  def optimizer(self) -> optax.GradientTransformation:
    """Returns what moves the logits by gradients of `loss`: Adam at the controller's rate."""
    chosen = self.settings
    return optax.chain(
      optax.scale_by_adam(chosen.beta1, chosen.beta2, chosen.epsilon),
      optax.scale_by_schedule(lambda step: -controller_rate(chosen, step)),
    )

  def probabilities(self, logits: Float[Array, "d k"]) -> Float[Array, "d k"]:
    """Returns the probability of every choice; 0 where there is none."""
    return jax.nn.softmax(jnp.where(self.mask, logits, policies.NEVER), -1) * self.mask

  def entropy(self, logits: Float[Array, "d k"]) -> Float[Array, ""]:
    """Returns the entropy of all decisions, in nats."""
    logs = jax.nn.log_softmax(jnp.where(self.mask, logits, policies.NEVER), -1)
    return -jnp.sum(jnp.where(self.mask, jnp.exp(logs) * logs, 0.0))

  def best(self, logits: Float[Array, "d k"]) -> tuple[int, ...]:
    """Returns the architecture of the largest logits; of equal ones the first."""
    return tuple(np.where(self.mask, np.asarray(logits), -np.inf).argmax(-1).tolist())
