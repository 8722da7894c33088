"""REINFORCE and PPO over a policy: the controller of MnasNet, NAS-FPN, SpineNet and their kin.

A trial's random numbers depend on the seed and its number alone. Proposals are drawn a whole block
of trials at a time, by the policy as it is; telling results changes the policy once a batch of
them is there.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from effnets import errors, streams
from effnets.search.algorithms import policies
from effnets.search.algorithms.base import Proposal, Result


@dataclasses.dataclass(frozen=True)
class Settings:
  """Constants of the update. The defaults are NASNet's; clip and epochs were never published.

  method: `reinforce`: advantage times log-probability. `ppo`: the clipped ratio of probabilities;
    with one epoch both are the same.
  batch: results per update. epochs: steps on each batch (PPO). clip: epsilon of PPO.
  entropy: weight of the whole architecture's entropy. decay: of the baseline, a moving average of
    batch means. normalise: divide advantages by their standard deviation.
  per_token: clip every token's ratio instead of the architecture's.
  max_staleness: updates after which a proposal's result is dropped.
  beta1, beta2, epsilon: Adam's.
  """

  method: Literal["reinforce", "ppo"] = "ppo"
  learning_rate: float = 3.5e-4
  batch: int = 20
  epochs: int = 4
  clip: float = 0.2
  entropy: float = 1e-5
  decay: float = 0.95
  normalise: bool = False
  per_token: bool = False
  max_staleness: int = 4
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8

  def __post_init__(self):
    if self.method not in ("reinforce", "ppo"):
      raise errors.unknown("method", self.method, "a policy gradient", ("reinforce", "ppo"))
    if self.batch < 1 or self.epochs < 1:
      raise errors.UserError(f"batch={self.batch}, epochs={self.epochs} have to be 1 or more.")
    if not 0 <= self.decay < 1:
      raise errors.UserError(f"decay={self.decay} of the baseline has to be in [0, 1).")

  @property
  def steps(self) -> int:
    """Gradient steps on each batch: REINFORCE knows no second one."""
    return self.epochs if self.method == "ppo" else 1


class Baseline:
  """A moving average without the pull of its start.

  >>> average = Baseline(0.95)
  >>> [round(average.update(reward), 6) for reward in (0.5, 0.6, 0.4, 0.7)]
  [0.5, 0.551282, 0.498247, 0.55263]
  """

  def __init__(self, decay: float):
    self.decay, self.total, self.weight = decay, 0.0, 0.0

  def update(self, value: float) -> float:
    """Returns the average with `value`."""
    self.total = self.decay * self.total + (1 - self.decay) * value
    self.weight = self.decay * self.weight + (1 - self.decay)
    return self.value

  @property
  def value(self) -> float:
    """The average; 0 before the first value."""
    return self.total / self.weight if self.weight else 0.0


def surrogate(
  ratio: Float[Array, "*b"], advantage: Float[Array, "*b"], clip: float
) -> Float[Array, "*b"]:
  """Returns what PPO maximises: min(r A, clip(r, 1 - e, 1 + e) A).

  >>> [round(float(surrogate(r, a, 0.2)), 6) for r, a in ((1.5, 1), (1.5, -1), (0.5, -1))]
  [1.2, -1.5, -0.8]
  """
  return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


@functools.lru_cache(maxsize=32)
def _programs(policy: policies.Policy, settings: Settings) -> dict[str, Any]:
  """Returns the compiled functions; shared by all searches of one layout and settings."""
  optimizer = optax.adam(settings.learning_rate, settings.beta1, settings.beta2, settings.epsilon)

  def evaluate(params, tokens, mask, active):
    logits = policy.logits(params, tokens)
    return policies.log_probabilities(logits, tokens, mask, active)

  def ratio(logs, old, own):
    # What this very policy drew has the ratio 1, and not 1 up to the rounding of another program:
    # where a gradient nearly vanishes, Adam makes a step out of its sign.
    return jnp.exp(logs - jnp.where(own, jax.lax.stop_gradient(logs), old))

  def loss(params, tokens, mask, active, advantage, old, own):
    logs, entropy = evaluate(params, tokens, mask, active)
    entropy = entropy.sum(-1).mean()
    if settings.method == "reinforce":
      gain = advantage * logs.sum(-1)
    elif settings.per_token:
      ratios = ratio(logs, old, own[:, None])
      terms = surrogate(ratios, advantage[:, None], settings.clip)
      gain = jnp.sum(jnp.where(active, terms, 0.0), -1)
    else:
      gain = surrogate(ratio(logs.sum(-1), old, own), advantage, settings.clip)
    return -gain.mean() - settings.entropy * entropy, entropy

  def update(params, state, *batch):
    gradient, entropy = jax.grad(loss, has_aux=True)(params, *batch)
    change, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, change), state, entropy

  return {
    "init": optimizer.init,
    "sample": jax.jit(policy.sample),
    "step": jax.jit(policy.step),
    "evaluate": jax.jit(evaluate),
    "update": jax.jit(update),
  }


class PolicyGradient:
  """A policy that makes architectures likelier whose reward is above a moving average."""

  def __init__(self, space: Any, seed: int, policy: policies.Policy, settings: Settings):
    self.space, self.seed, self.policy, self.settings = space, seed, policy, settings
    self._programs = _programs(policy, settings)
    self.params = jax.tree.map(jnp.asarray, policy.init(self._rng("policy", 0)))
    self._optimizer = self._programs["init"](self.params)
    self.baseline = Baseline(settings.decay)
    self.version = 0
    self.failed = self.stale = self.told = 0
    self.entropy: float | None = None
    self._unique: set[str] = set()
    self._buffer: list[Result] = []
    self._block: tuple[tuple[int, int], list[Proposal]] | None = None
    self._valid: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}

  def _rng(self, name: str, number: int) -> np.random.Generator:
    return np.random.default_rng((self.seed, streams.name_hash(name), number))

  def propose(self, number: int) -> Proposal:
    """Returns the proposal of trial `number`, drawn by the policy as it is."""
    block, place = divmod(number, self.settings.batch)
    if self._block is None or self._block[0] != (self.version, block):
      first = block * self.settings.batch
      self._block = (self.version, block), self._draw(range(first, first + self.settings.batch))
    return self._block[1][place]

  def _draw(self, numbers: range) -> list[Proposal]:
    shape = (len(self.policy.layout.arities), self.policy.layout.choices)
    noise = np.stack([self._rng("tokens", n).gumbel(size=shape) for n in numbers])
    noise = noise.astype(np.float32)
    if self.space.flat:
      mask = self.policy.layout.mask()
      tokens = np.asarray(self._programs["sample"](self.params, noise, mask))
    else:
      tokens = self._draw_by_step(noise)
    points = [tuple(row) for row in tokens.tolist()]
    logs, entropy = self._programs["evaluate"](self.params, *self._inputs(points))
    logs = np.asarray(logs)
    if self.entropy is None:
      self.entropy = float(np.asarray(entropy).sum(-1).mean())
    found = []
    for point, each in zip(points, logs, strict=True):
      info: dict[str, Any] = {"version": self.version, "log_probability": float(each.sum())}
      if self.settings.per_token:
        info["log_probabilities"] = each.tolist()
      found.append(Proposal(point, info))
    return found

  def _draw_by_step(self, noise: Float[np.ndarray, "b d k"]) -> Int[np.ndarray, "b d"]:
    """Returns tokens where what is valid depends on earlier ones: masks are the host's work."""
    batch, decisions, choices = noise.shape
    tokens: list[list[int]] = [[] for _ in range(batch)]
    masks = np.zeros((batch, decisions, choices), bool)
    if self.policy.independent:
      fixed = np.asarray(self.policy.logits(self.params, jnp.zeros((1, decisions), int)))[0]
    else:
      state, previous = self.policy.start(self.params, batch), np.zeros(batch, int)
    for place in range(decisions):
      if self.policy.independent:
        logits = fixed[place]
      else:
        state, logits = self._programs["step"](self.params, state, place, previous)
        logits = np.asarray(logits)
      for row, mask in zip(tokens, masks, strict=True):
        valid = self.space.mask(row)
        mask[place, : len(valid)] = valid
      scores = np.where(masks[:, place], logits + noise[:, place], -np.inf)
      previous = scores.argmax(-1)
      for row, token in zip(tokens, previous.tolist(), strict=True):
        row.append(token)
    if len(self._valid) > 4096:
      self._valid.clear()
    for row, mask in zip(tokens, masks, strict=True):
      self._valid[tuple(row)] = mask, self.space.active(row)
    return np.array(tokens)

  def _inputs(
    self, points: list[tuple[int, ...]]
  ) -> tuple[Int[np.ndarray, "b d"], Bool[np.ndarray, "*b d k"], Bool[np.ndarray, "b d"]]:
    """Returns tokens, masks and active decisions of architectures."""
    tokens = np.array(points)
    if self.space.flat:
      return tokens, self.policy.layout.mask(), np.stack([self.space.active(p) for p in points])
    found = [self._valid.get(point) or self._validity(point) for point in points]
    return tokens, np.stack([mask for mask, _ in found]), np.stack([on for _, on in found])

  def _validity(self, point: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((len(point), self.policy.layout.choices), bool)
    for place in range(len(point)):
      valid = self.space.mask(point[:place])
      mask[place, : len(valid)] = valid
    return mask, self.space.active(point)

  def tell(self, result: Result) -> None:
    """Takes in a result. A failed one teaches nothing; nor does one of a policy long gone.

    A duplicate's reward counts as any other: leaving it out would bias the policy.
    """
    self.told += 1
    self._unique.add(self.space.key(result.tokens))
    if result.reward is None:
      self.failed += 1
    elif self.version - result.proposal.info["version"] > self.settings.max_staleness:
      self.stale += 1
    else:
      self._buffer.append(result)
    if len(self._buffer) == self.settings.batch:
      self._update()

  def _update(self) -> None:
    batch, self._buffer = self._buffer, []
    rewards = np.array([result.reward for result in batch])
    advantage = rewards - self.baseline.update(float(rewards.mean()))
    if self.settings.normalise:
      advantage = advantage / (advantage.std() + 1e-8)
    infos = [result.proposal.info for result in batch]
    name = "log_probabilities" if self.settings.per_token else "log_probability"
    old = np.array([info[name] for info in infos], np.float32)
    own = np.array([info["version"] == self.version for info in infos])
    inputs = *self._inputs([r.tokens for r in batch]), advantage.astype(np.float32), old
    for step in range(self.settings.steps):
      self.params, self._optimizer, entropy = self._programs["update"](
        self.params, self._optimizer, *inputs, own if step == 0 else np.zeros_like(own)
      )
    self.entropy = float(entropy)
    self.version += 1

  def summary(self) -> dict[str, float]:
    """Returns the policy's version and entropy (nats, per architecture), the baseline and counts.

    duplicates: share of the results whose network had been seen before. There is no entropy
    before the first proposal.
    """
    entropy = {} if self.entropy is None else {"entropy": self.entropy}
    return {
      **entropy,
      "version": self.version,
      "baseline": self.baseline.value,
      "failed": self.failed,
      "stale": self.stale,
      "duplicates": 1 - len(self._unique) / max(self.told, 1),
    }
