"""One-shot search: one network with shared weights is trained while a controller learns in it.

Each step samples architectures, trains the shared weights on a training batch through their masks,
scores them on a batch that the weights are not trained on, and moves independent logits by
REINFORCE on an absolute reward. The architecture of the largest logits, trained anew, is the
result. Everything of a step is one compiled program, the same for all architectures.

Source: Bender et al. 2020 (TuNAS) and its released code, whose constants are the defaults.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
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


@flax.struct.dataclass
class Controller:
  """Independent logits and what their updates need.

  logits: d k. moments: Adam's. total, weight: of the baseline, which is their ratio.
  """

  logits: Float[Array, "d k"]
  moments: Any
  total: Float[Array, ""]
  weight: Float[Array, ""]

  @property
  def baseline(self) -> Float[Array, ""]:
    """The moving average of rewards; 0 before the first."""
    return self.total / jnp.maximum(self.weight, 1e-12)


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
    self._adam = optax.scale_by_adam(settings.beta1, settings.beta2, settings.epsilon)
    index = {decision.name: place for place, decision in enumerate(space.decisions)}
    self._conditions = []
    for rule in getattr(space, "rules", ()):
      if isinstance(rule, When):
        choices = space.decisions[index[rule.on]].choices
        values = [choices.index(value) for value in rule.values]
        self._conditions.append((index[rule.name], index[rule.on], values))

  def init(self) -> Controller:
    """Returns the controller that prefers nothing."""
    logits = jnp.zeros(self.mask.shape)
    return Controller(logits, self._adam.init(logits), jnp.zeros(()), jnp.zeros(()))

  def sample(self, controller: Controller, key: Key[Array, ""], step: Int[Array, ""]) -> Sampled:
    """Returns the architectures of a step; key: of the search, the step is folded in."""
    key = jax.random.fold_in(streams.stream(key, "architectures"), step)
    draw, average, widen = jax.random.split(key, 3)
    shape = (self.settings.architectures, len(self.mask))
    logits = jnp.where(self.mask, controller.logits, policies.NEVER)
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

  def update(
    self,
    controller: Controller,
    tokens: Int[Array, "n d"],
    rewards: Float[Array, " n"],
    step: Int[Array, ""],
  ) -> Controller:
    """Returns the controller after one REINFORCE step; rewards that are no numbers change nothing.

    The baseline moves first, also while the controller idles.
    """
    usable = jnp.all(jnp.isfinite(rewards))
    safe = jnp.where(jnp.isfinite(rewards), rewards, 0.0)
    decay = self.settings.decay
    total = decay * controller.total + (1 - decay) * safe.mean()
    weight = decay * controller.weight + (1 - decay)
    advantage = safe - total / weight
    active = self.active(tokens)

    def loss(logits):
      whole = jnp.broadcast_to(logits, (tokens.shape[0], *logits.shape))
      logs, entropy = policies.log_probabilities(whole, tokens, self.mask, active)
      return -jnp.mean(advantage * logs.sum(-1)) - self.settings.entropy * entropy.sum(-1).mean()

    change, moments = self._adam.update(jax.grad(loss)(controller.logits), controller.moments)
    logits = controller.logits - controller_rate(self.settings, step) * change
    moved = Controller(logits, moments, total, weight)
    return jax.tree.map(lambda new, old: jnp.where(usable, new, old), moved, controller)

  def entropy(self, controller: Controller) -> Float[Array, ""]:
    """Returns the entropy of all decisions, in nats."""
    logits = jnp.where(self.mask, controller.logits, policies.NEVER)
    logs = jax.nn.log_softmax(logits, -1)
    return -jnp.sum(jnp.where(self.mask, jnp.exp(logs) * logs, 0.0))

  def best(self, controller: Controller) -> tuple[int, ...]:
    """Returns the architecture of the largest logits; of equal ones the first."""
    logits = np.where(self.mask, np.asarray(controller.logits), -np.inf)
    return tuple(logits.argmax(-1).tolist())


@flax.struct.dataclass
class State:
  """A one-shot search. step: taken so far. params, optimizer: of the shared weights."""

  step: Int[Array, ""]
  params: Any
  optimizer: Any
  controller: Controller


Batch = tuple[Float[Array, "b h w 3"], Int[Array, " b"]]


def init(searcher: Searcher, params: Any, optimizer: optax.GradientTransformation) -> State:
  """Returns the state before the first step."""
  params = jax.tree.map(jnp.asarray, params)
  return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), searcher.init())


def make_step(
  searcher: Searcher,
  apply: Callable[[Any, Float[Array, "d k"], Float[Array, "b h w 3"]], Float[Array, "b k"]],
  cost: Callable[[Float[Array, "d k"]], Float[Array, ""]],
  optimizer: optax.GradientTransformation,
  *,
  label_smoothing: float = 0.1,
) -> Callable[[State, Batch, Batch, Key[Array, ""]], tuple[State, dict[str, Array]]]:
  """Returns the step (state, training batch, batch to score, key) -> (state, figures), for `jit`.

  apply: (parameters, weights of choices, images) -> logits, as of `supernet.Supernet`.
  cost: of an architecture. optimizer: of the shared weights, with its schedule; decay of weights is
    its matter too. Batches: images and labels, cut in as many parts as there are architectures; the
    one to score may be larger (four times, in TuNAS) and is no training data.
  """
  count = searcher.settings.architectures

  def parts(batch: Batch) -> Batch:
    images, labels = batch
    if images.shape[0] % count:
      raise errors.UserError(
        f"a batch of {images.shape[0]} images is not {count} equal parts, one per architecture."
      )
    split = lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:])  # noqa: E731
    return split(images), split(labels)

  def loss(params, weights, images, labels):
    logits = apply(params, weights, images)
    wanted = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, wanted).mean()

  def mean_loss(params, sampled, batch):
    return jax.vmap(loss, (None, 0, 0, 0))(params, sampled.training, *batch).mean()

  def accuracy(params, weights, images, labels):
    return jnp.mean(apply(params, weights, images).argmax(-1) == labels)

  def step(state: State, training: Batch, scored: Batch, key: Key[Array, ""]):
    sampled = searcher.sample(state.controller, key, state.step)
    value, gradient = jax.value_and_grad(mean_loss)(state.params, sampled, parts(training))
    change, moments = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, change)
    accuracies = jax.vmap(accuracy, (None, 0, 0, 0))(params, sampled.scoring, *parts(scored))
    costs = jax.vmap(cost)(sampled.scoring)
    rewards = searcher.reward(accuracies, costs)
    controller = searcher.update(state.controller, sampled.tokens, rewards, state.step)
    figures = {
      "loss": value,
      "accuracy": accuracies.mean(),
      "cost": costs.mean(),
      "reward": rewards.mean(),
      "baseline": controller.baseline,
      "entropy": searcher.entropy(controller),
    }
    return State(state.step + 1, params, moments, controller), figures

  return step


def search(
  step: Callable[..., tuple[State, dict[str, Array]]],
  state: State,
  batches: Sequence[tuple[Batch, Batch]],
  key: Key[Array, ""],
) -> tuple[State, list[dict[str, float]]]:
  """Returns the state after all batches, and every step's figures; step: compiled."""
  history = []
  for training, scored in batches:
    state, figures = step(state, training, scored, key)
    history.append({name: float(value) for name, value in figures.items()})
  return state, history
