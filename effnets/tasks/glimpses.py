"""Networks that look at patches: location pre-training, and policy gradient with cross-entropy.

`Location` teaches where to look without labels, `Reinforcement` all of a Saccader, or a DRAM, by
what comes of it. Both are classifications to whoever asks for logits.

Source: Elsayed et al. 2019 (arXiv 1908.07644), section 3, and its official code.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from effnets import errors, evaluation, models, ops, parallel, streams
from effnets.models import saccader
from effnets.tasks import base, classification

MASKS = ("targets", "samples")
REWARDS = ("01", "pm1")
LARGEST = 100.0
"""At which a reported location cross-entropy is cut: that of a masked target is about 1e5."""

DEFAULTS = {
  "mask": "targets",
  "samples": 2,
  "reward": "01",
  "reinforce_weight": 1.0,
  "cross_entropy_weight": 1.0,
  "decay": 8e-5,
  "location_decay": 8e-5,
}
"""What `config.glimpses` may say; see `Glimpses`, `Location` and `Reinforcement`."""

_LOCATION = ("cell", "mix", "where", "lstm_location", "location")


def located(path: str) -> bool:
  """Returns whether the weight at `path` is of the location network, the cell among it.

  >>> [located(p) for p in ("where_0_1/conv/kernel", "backbone/stem/conv/kernel", "cell/kernel")]
  [True, False, True]
  """
  top = path.partition("/")[0]
  return top in _LOCATION or top.startswith("where_")


def decay(params: PyTree, representation: float, location: float) -> Float[Array, ""]:
  """Returns half the squares of all weights, times each group's factor; no biases, no norms."""
  total = jnp.float32(0)
  for names, leaf in traverse_util.flatten_dict(params).items():
    factor = location if located("/".join(names)) else representation
    if factor and names[-1] == "kernel":
      total = total + 0.5 * factor * jnp.sum(jnp.square(leaf.astype(jnp.float32)))
  return total


def reinforce(
  rewards: Float[Array, "*b"],
  log_probabilities: Float[Array, "*b t"],
  baseline: Float[Array, ""] | None = None,
) -> Float[Array, "*b"]:
  """Returns each episode's policy-gradient loss, the mean over its steps.

  Args: baseline: what is taken off the rewards; default their mean. No gradient enters either.

  >>> rewards, logs = jnp.array([1.0, 0.0, 1.0, 1.0]), jnp.array([-2.0, -1.0, -3.0, -2.5])
  >>> float(reinforce(rewards, logs[:, None]).mean())
  0.28125
  """
  baseline = rewards.mean() if baseline is None else baseline
  advantage = jax.lax.stop_gradient(rewards - baseline)
  return -(advantage[..., None] * log_probabilities).mean(-1)


@dataclasses.dataclass(frozen=True)
class Glimpses(classification.Classification):
  """A classification by glimpses; it ends with what it looked at, too.

  decay, location_decay: half the squares of the weights, that this is the factor of, are added to
  the loss: those of the representation, and of the location network.
  """

  decay: float = 0.0
  location_decay: float = 0.0

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `logits`, `patch_logits` (b t k) and where it looked, see the module's `look`."""
    images = self.placement.split_images(self.inputs(batch["image"]))
    found = self.module.apply(variables, images, train=False, method="look")
    return {name: value for name, value in found.items() if name != "location_logits"}

  def inputs(self, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns pictures in [0, 255] as the network takes them."""
    return self._inputs(images)

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns."""
    return (*evaluation.CLASSIFICATION_FIGURES, "coverage", "diversity")

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any = None
  ) -> dict[str, float]:
    """Returns the figures of `evaluation.classification`, and what was looked at of the images."""
    figures = super().evaluate(outputs, examples, source)
    return figures | evaluation.glimpses.looked(self.windows(outputs), self.image_size)

  def windows(self, outputs: dict[str, np.ndarray]) -> Int[np.ndarray, "n t 3"]:
    """Returns top, left and side, in pixels of the image, of every glimpse."""
    size = self.image_size
    if isinstance(self.module, models.dram.DRAM):
      side = self.module.patch
      # As `ops.glimpses.patch_top`, on the host: the loop moves nothing to the device by itself.
      at = np.float32(size) * (np.asarray(outputs["locations"], np.float32) + 3) - side
      tops = np.trunc(at / 2).astype(int) - size
    else:
      grid, field = self.module.grid(size), self.module.field
      places = np.asarray(outputs["places"])
      shape = {"grid": grid, "stride": field.stride, "side": field.size}
      return evaluation.glimpses.grid_windows(places, **shape)
    return np.concatenate([tops, np.full_like(tops[..., :1], side)], -1)


@dataclasses.dataclass(frozen=True)
class Location(Glimpses):
  """Cross-entropy of the cell's places with those of `ops.glimpses.ordered`; no labels.

  The representation is frozen, its moments too. mask: what the cell takes for visited at each step,
  of `MASKS`: `targets`, the places it should have chosen, or `samples`, places that it draws, as
  the official code does; then it may be asked for a place that it cannot take any more, which costs
  about 1e5 but has a bounded gradient.
  """

  mask: str = "targets"

  @property
  def frozen(self) -> tuple[str, ...]:
    """Path prefixes of the frozen parameters: the representation's."""
    return ("backbone",)

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean over batch and steps of the cross-entropy, in nats; see `base.Task`."""
    del frozen, step
    images, _, _ = self.examples(batch, root)
    ends, state = self.module.apply(
      variables,
      self.placement.split_images(images),
      train=True,
      fixed=True,
      method="maps",
      mutable=[name for name in variables if name != "params"],
    )
    targets = ops.glimpses.ordered(saccader.flat(ends["logits2d"]), self.module.glimpses)
    choose = ops.glimpses.given(targets)
    if self.mask == "samples":
      choose = ops.glimpses.sampled(self._keys(batch, root, ("look",))["look"])
    features = saccader.flat(ends["mixed_features2d"])
    _, scores = ops.glimpses.look(features, ends["vector"], targets.shape[1], choose)
    entropy = optax.softmax_cross_entropy_with_integer_labels(scores, targets)
    hits = (jnp.argmax(scores, -1) == targets).astype(jnp.float32)
    count = jnp.float32(entropy.size)
    metrics = {
      "location_cross_entropy": (jnp.sum(jnp.minimum(entropy, LARGEST)), count),
      "location_top1": (jnp.sum(hits), count),
    }
    # Weights that are frozen would only add a constant.
    added = decay(variables["params"], 0.0, self.location_decay)
    loss = jnp.mean(batch["weight"] * entropy.mean(1)) + added
    return loss, base.Aux(metrics, dict(state))


@dataclasses.dataclass(frozen=True)
class Reinforcement(Glimpses):
  """Policy gradient on where to look, and cross-entropy on what is there.

  samples: S, episodes an image. reward: of `REWARDS`, 1 for the right class and 0, or -1, for
    another. reinforce_weight, cross_entropy_weight: of the two parts of the loss.
  Source: section 3.3; the baseline is the mean reward of the batch, steps are averaged.
  """

  samples: int = 2
  reward: str = "01"
  reinforce_weight: float = 1.0
  cross_entropy_weight: float = 1.0

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean over the batch of both parts, weighted, in nats; see `base.Task`."""
    del frozen, step
    images, targets, _ = self.examples(batch, root)
    keys = self._keys(batch, root, ("look",))["look"]
    logits, logs, state = self.episodes(variables, self.placement.split_images(images), keys)
    entropy = optax.softmax_cross_entropy(logits, jnp.broadcast_to(targets, logits.shape))
    right = jnp.argmax(logits, -1) == jnp.argmax(targets, -1)  # s b
    rewards = right.astype(jnp.float32)
    if self.reward == "pm1":
      rewards = 2 * rewards - 1
    mean = rewards.mean()
    if self.placement.execution == "shard_map":
      mean = jax.lax.pmean(mean, parallel.BATCH_AXES)
    policy = reinforce(rewards, logs, mean).mean(0)
    metrics = self._metrics(logits[0], targets, entropy.mean(0), batch)
    count = jnp.float32(policy.shape[0])
    metrics["reward"] = (jnp.sum(rewards.mean(0)), count)
    metrics["reinforce"] = (jnp.sum(policy), count)
    each = self.reinforce_weight * policy + self.cross_entropy_weight * entropy.mean(0)
    added = decay(variables["params"], self.decay, self.location_decay)
    return jnp.mean(batch["weight"] * each) + added, base.Aux(metrics, state)

  def episodes(
    self,
    variables: base.Variables,
    images: Float[Array, "b h w 3"],
    keys: Key[Array, " b"],
  ) -> tuple[Float[Array, "s b k"], Float[Array, "s b t"], PyTree]:
    """Returns logits and log probabilities of every episode, and the model's state."""
    mutable = [name for name in variables if name != "params"]
    if isinstance(self.module, models.dram.DRAM):
      found, state = self.module.apply(
        variables, images, train=True, keys=keys, method="look", mutable=mutable
      )
      logs = self.module.log_probabilities(found["means"], found["drawn"])
      return found["logits"][None], logs[None], dict(state)
    ends, state = self.module.apply(variables, images, train=True, method="maps", mutable=mutable)
    features, values = (saccader.flat(ends[n]) for n in ("mixed_features2d", "logits2d"))

    def episode(number):
      own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
      chosen, scores = ops.glimpses.look(
        features, ends["vector"], self.module.glimpses, ops.glimpses.sampled(own)
      )
      logs = jax.nn.log_softmax(scores, -1)
      logs = jnp.take_along_axis(logs, chosen[..., None], -1)[..., 0]
      if self.module.soft_attention:
        found = jnp.einsum("btn,bnk->btk", jax.nn.softmax(scores, -1), values)
      else:
        found = saccader.gathered(values, chosen)
      return found.mean(1), logs

    logits, logs = jax.vmap(episode)(jnp.arange(self.samples, dtype=jnp.uint32))
    return logits, logs, dict(state)


def settings(config: Any) -> dict[str, Any]:
  """Returns `config.glimpses`, complete. Raises: UserError for what is wrong there, or beside."""
  key, task = "config.glimpses", config.task.name
  if "glimpses" not in config:
    raise errors.UserError(
      f"{key} is missing, which config.task.name={task!r} needs; start from configs/saccader.py."
    )
  values = {**DEFAULTS, **config.glimpses.to_dict()}
  for name in values:
    if name not in DEFAULTS:
      raise errors.unknown(key, name, "a setting", DEFAULTS)
  for name, options in (("mask", MASKS), ("reward", REWARDS)):
    if values[name] not in options:
      raise errors.unknown(f"{key}.{name}", values[name], "one of its values", options)
  for name in ("reinforce_weight", "cross_entropy_weight", "decay", "location_decay"):
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
      raise errors.UserError(f"{key}.{name}={value!r} should be a number of at least 0.")
  samples = values["samples"]
  if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
    raise errors.UserError(f"{key}.samples={samples!r} should be a whole number of at least 1.")
  for name in ("mixup", "cutmix"):
    if config.task.get(name, 0.0) and task == "reinforcement":
      raise errors.UserError(
        f"config.task.{name}={config.task[name]} does not go with config.task.name={task!r}, where "
        "an answer is right or wrong; set it to 0."
      )
  size = config.data.image_size
  if config.model.get("image_size", size) != size:
    raise errors.UserError(
      f"config.model.image_size={config.model.image_size} differs from config.data.image_size="
      f"{size}; leave it out."
    )
  return values


def learning(
  plain: classification.Classification, task: str, values: dict[str, Any]
) -> classification.Classification:
  """Returns the task of a name: `location`, `reinforcement`, or `patches`, which is `plain`.

  values: of `settings`. Raises: UserError if the module has nothing to learn there.
  """
  patches = isinstance(plain.module, models.patch_classifier.PatchClassifier)
  dram = isinstance(plain.module, models.dram.DRAM)
  if patches != (task == "patches") or (dram and task == "location"):
    words = {
      "patches": "saccader_classifier, which classifies the patches of a trained saccader",
      "location": "saccader: a network with places that can be put in order",
      "reinforcement": "saccader, or dram",
    }
    raise errors.UserError(f"config.task.name={task!r} is for the model {words[task]}.")
  if patches:
    return plain
  if dram and task == "reinforcement" and values["samples"] != 1:
    raise errors.UserError(
      f"config.glimpses.samples={values['samples']}: a DRAM makes one episode an image; set it to "
      "1."
    )
  made = Location if task == "location" else Reinforcement
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  own = {field.name for field in dataclasses.fields(made)}
  return made(**fields, **{name: value for name, value in values.items() if name in own})


def compare(
  task: Glimpses,
  policies: tuple[str, ...],
  count: int,
  seed: int,
  *,
  hidden: int = 0,
) -> Any:
  """Returns predict(variables, batch) -> outputs by which policies are judged, for a predictor.

  For each policy P of a Saccader `P/hits1` and `P/hits5` (b t), whether the mean logits of the
  first glimpses have the label first, or among the first five; `P/places` (b t). `all/…` is of all
  patches, one glimpse. `complement/…` is of all patches of the picture in which the first `hidden`
  glimpses of the first policy are black. Draws are functions of seed and index.
  """
  module = task.module

  def predict(variables, batch):
    images = task.placement.split_images(task.inputs(batch["image"]))
    ends = module.apply(variables, images, train=False, method="maps")
    values = saccader.flat(ends["logits2d"])
    root = streams.stream(jax.random.key(seed), "look")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(root, batch["index"].astype(jnp.uint32))
    found = {
      f"all/{name}": hits for name, hits in _hits(values.mean(1)[:, None], batch["label"]).items()
    }
    for policy in policies:
      chosen, _ = module.apply(
        variables, ends, images, count=count, policy=policy, keys=keys, method="places"
      )
      steps = jnp.cumsum(saccader.gathered(values, chosen), 1)
      means = steps / jnp.arange(1, count + 1)[:, None]
      found |= {f"{policy}/{name}": hits for name, hits in _hits(means, batch["label"]).items()}
      found[f"{policy}/places"] = chosen
    if hidden and policies:
      grid, size = ends["logits2d"].shape[1], images.shape[1]
      looked_at = found[f"{policies[0]}/places"][:, :hidden]
      dark = ops.glimpses.seen(looked_at, module.field, grid, size)
      rest = task.inputs(jnp.where(dark[..., None], 0, batch["image"]).astype(jnp.uint8))
      rest = module.apply(variables, task.placement.split_images(rest), train=False, method="maps")
      means = saccader.flat(rest["logits2d"]).mean(1)[:, None]
      found |= {f"complement/{name}": hits for name, hits in _hits(means, batch["label"]).items()}
    return found

  return predict


def _hits(logits: Float[Array, "b t k"], labels: Int[Array, " b"]) -> dict[str, Array]:
  own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None, None], -1)
  # A tie counts the classes before the label, as `evaluation.classification` does.
  first = jnp.arange(logits.shape[-1]) < labels[:, None, None]
  above = jnp.sum((logits > own) | ((logits == own) & first), -1)
  return {"hits1": above < 1, "hits5": above < 5}
