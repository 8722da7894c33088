"""Classification of clips: one class each, or several."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from effnets import augment, data, errors, evaluation, ops, parallel, streams
from effnets.tasks import base, clips

VIEWS = ("mean", "max")


@dataclasses.dataclass(frozen=True)
class Video(clips.ClipTask):
  """Cross-entropy over `b t h w 3` uint8 clips; of softmax, or of a sigmoid for every class.

  A batch has `clip`, and `flow` if the module takes it (see `ops.flow.from_levels`); `label`, or
  `targets` (b, k) if `several`. In evaluation both have a dimension of views behind the batch.
  module: gives logits `b k`. placement: of the step that calls `loss`. mean, std: of the model's
  input, per channel, in [0, 1]. policy: of (images, keys), or None; every frame of a clip gets the
  same draws. flip: probability of mirroring a clip; its flow then runs the other way.
  label_smoothing: in [0, 1), of one class. views: how a film's views come together, `mean` or `max`
  of probabilities. dtype: of what enters the model.
  """

  module: nn.Module
  placement: parallel.Placement
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  several: bool = False
  policy: Callable[[Array, Array], Array] | None = None
  flip: float = 0.0
  label_smoothing: float = 0.0
  views: str = "mean"
  dtype: Any = jnp.float32

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean over the batch of weight * cross-entropy, in nats; see `base.Task`.

    Of several classes it is the sum over classes.
    """
    del frozen, step
    dropout = streams.example_keys(streams.stream(root, "dropout"), batch["position"])
    logits, model_state = self.module.apply(
      variables,
      *self._inputs(*self.augmented(batch, root)),
      train=True,
      keys={"dropout": dropout},
      mutable=[name for name in variables if name != "params"],
    )
    entropy, metrics = self._judged(logits, batch)
    metrics["cross_entropy"] = (jnp.sum(entropy), jnp.float32(entropy.shape[0]))
    return jnp.mean(batch["weight"] * entropy), base.Aux(metrics, dict(model_state))

  def _judged(
    self, logits: Float[Array, "b k"], batch: base.Batch
  ) -> tuple[Float[Array, " b"], dict[str, tuple[Array, Array]]]:
    """Returns every example's cross-entropy and the metrics of the batch."""
    if self.several:
      targets = batch["targets"]
      entropy = optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)
      # Whether the likeliest class is one of the clip's.
      best = jnp.take_along_axis(targets, jnp.argmax(logits, -1, keepdims=True), -1)[:, 0]
      some = (targets.sum(-1) > 0).astype(jnp.float32)
      return entropy, {"hit1": (jnp.sum(best * some), jnp.sum(some))}
    label = batch["label"]
    targets = augment.smooth_one_hot(label, self.num_classes, self.label_smoothing)
    entropy = optax.softmax_cross_entropy(logits, targets)
    correct = (jnp.argmax(logits, -1) == label).astype(jnp.float32)
    return entropy, {"top1": (jnp.sum(correct), jnp.float32(label.shape[0]))}

  def augmented(
    self, batch: base.Batch, root: Key[Array, ""]
  ) -> tuple[UInt8[Array, "b t h w 3"], UInt8[Array, "b t h w 2"] | None]:
    """Returns a batch's clips and their flow, if it has any, as a training step sees them.

    root: the training's key; what is drawn is a function of it and of each `position`.
    """
    keys = [
      streams.example_keys(streams.stream(root, name), batch["position"])
      for name in ("augment", "flip")
    ]
    return self._augmented(batch, *keys)

  def _augmented(
    self, batch: base.Batch, keys: Key[Array, " b"], flips: Key[Array, " b"]
  ) -> tuple[UInt8[Array, "b t h w 3"], UInt8[Array, "b t h w 2"] | None]:
    """Returns clips and their flow, changed alike over time."""
    clip, flow = batch["clip"], batch.get("flow")
    if self.policy is not None:

      def alike(clip, keys):
        frames = clip.reshape(-1, *clip.shape[2:])
        each = jnp.repeat(keys, clip.shape[1], total_repeat_length=len(frames))
        return self.policy(frames, each).reshape(clip.shape)

      clip = self.placement.per_example(alike)(clip, keys)
    if self.flip:
      drawn = jax.vmap(lambda key: jax.random.uniform(key) < self.flip)(flips)
      turned = drawn[:, None, None, None, None]
      clip = jnp.where(turned, clip[..., ::-1, :], clip)
      if flow is not None:
        mirrored = flow[..., ::-1, :]
        # 256 - level is the level of the opposite flow.
        mirrored = jnp.stack([(256 - mirrored[..., 0].astype(jnp.int32)), mirrored[..., 1]], -1)
        flow = jnp.where(turned, mirrored.astype(jnp.uint8), flow)
    return clip, flow

  def _inputs(
    self, clip: UInt8[Array, "b t h w 3"], flow: UInt8[Array, "b t h w 2"] | None
  ) -> tuple[Array, ...]:
    """Returns what the module takes, normalised and placed on the mesh."""
    split = self.placement.split_images
    found = split(augment.normalize(clip, self.mean, self.std, dtype=self.dtype))
    if not self.module.takes_flow:
      return (found,)
    return found, split(ops.flow.from_levels(flow, self.dtype))

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns `logits`, float32 `b k`, of all views of a film together, without noise."""
    clip, flow = batch["clip"], batch.get("flow")
    viewed = clip.ndim == 6
    views = clip.shape[1] if viewed else 1
    if viewed:
      clip, flow = (x if x is None else x.reshape(-1, *x.shape[2:]) for x in (clip, flow))
    logits = self.module.apply(variables, *self._inputs(clip, flow), train=False)
    return {"logits": self._together(logits.reshape(-1, views, logits.shape[-1]))}

  def _together(self, logits: Float[Array, "b v k"]) -> Float[Array, "b k"]:
    """Returns logits of the views' mean or greatest probabilities."""
    if logits.shape[1] == 1:
      return logits[:, 0]
    if self.several:
      if self.views == "max":
        return logits.max(1)
      yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(s * logits), 1) for s in (1.0, -1.0))
      return yes - no
    logs = jax.nn.log_softmax(logits)
    return logs.max(1) if self.views == "max" else jax.nn.logsumexp(logs, 1)

  def features(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns the network's end points without space and time, `b d`, of a film's first view."""
    clip, flow = batch["clip"], batch.get("flow")
    if clip.ndim == 6:
      clip, flow = clip[:, 0], None if flow is None else flow[:, 0]
    inputs = self._inputs(clip, flow)
    ends = self.module.apply(variables, *inputs, train=False, method="features")
    return {name: end.astype(jnp.float32) for name, end in ends.items() if end.ndim == 2}

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns."""
    several, one = evaluation.MULTI_LABEL_FIGURES, evaluation.CLASSIFICATION_FIGURES
    return several if self.several else one

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any = None
  ) -> dict[str, float]:
    """Returns the figures of `evaluation.multi_label` or `evaluation.classification`."""
    del source
    if self.several:
      return evaluation.multi_label(outputs["logits"], examples["targets"])
    return evaluation.classification(outputs["logits"], examples["label"])


_SETTINGS: dict[str, Any] = {
  "frames": 16,
  "stride": 1,
  "speed": (1.0, 1.0),
  "views": 1,
  "crops": 1,
  "area": (0.49, 1.0),
  "aspect": (0.5, 2.0),
  "flow": "none",
  "bound": 20.0,
  "labels": "film",
  "short": "loop",
}


def settings(config: Any) -> dict[str, Any]:
  """Returns `config.data.clips` with its defaults; see `data.clips.Clips`.

  Raises: UserError for a name or value that is none.
  """
  given, key = config.data.clips.to_dict() if "clips" in config.data else {}, "config.data.clips"
  for name in given:
    if name not in _SETTINGS:
      raise errors.unknown(key, name, "a setting", _SETTINGS)
  found = {**_SETTINGS, **given}
  for name in ("frames", "stride", "views"):
    value = found[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      raise errors.UserError(f"{key}.{name}={value!r} should be a whole number of at least 1.")
  for name, options in (
    ("flow", data.clips.FLOWS),
    ("labels", data.clips.LABELS),
    ("short", data.clips.SHORT),
    ("crops", (1, 3)),
  ):
    if found[name] not in options:
      raise errors.unknown(f"{key}.{name}", found[name], "one of its values", map(str, options))
  for name, most in (("speed", None), ("area", 1.0), ("aspect", None)):
    value = found[name]
    numbers = isinstance(value, tuple | list) and len(value) == 2
    if not numbers or not 0 < value[0] <= value[1] or (most and value[1] > most):
      raise errors.UserError(
        f"{key}.{name}={value!r} should be two numbers above 0, ascending"
        f"{'' if most is None else f', at most {most}'}, such as {_SETTINGS[name]}."
      )
    found[name] = tuple(map(float, value))
  if not isinstance(found["bound"], int | float) or found["bound"] <= 0:
    raise errors.UserError(f"{key}.bound={found['bound']!r} should be above 0, in pixels.")
  if found["flow"] == "dis":
    data.clips.cv2(f"{key}.flow='dis'")
  return found


def transform(config: Any, *, training: bool) -> data.clips.Clips:
  """Returns the transform of a config's films, random in training. Raises: UserError."""
  found = settings(config)
  padding, size = max(0, config.data.crop_padding), config.data.image_size
  return data.clips.Clips(
    size,
    training=training,
    fraction=config.data.crop_fraction or size / (size + padding),
    targets=config.task.labels == "several",
    interpolation=config.data.interpolation or "bilinear",
    **found,
  )
