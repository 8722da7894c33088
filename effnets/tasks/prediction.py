"""Prediction of films: what comes after the first frames."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from effnets import data, errors, evaluation, models, ops, parallel, streams
from effnets.models import i3d
from effnets.ops import losses, similarity
from effnets.tasks import base, clips

LOSSES = ("l1", "l2")
SPANS = ("predicted", "all")
_JUDGES = "judges"
_MOST = 60.0  # dB, of frames that are equal to less than a level
_SHOWN = 3  # samples beside the best


# Compared by identity: arrays of judges have no truth value.
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(clips.ClipTask):
  """Reconstruction of every frame but the first, and the divergence of posterior and prior.

  A batch has `clip` uint8 `b t h w 3`, and `actions` if the module takes them.
  module: a `models.video_prediction.VideoPredictor`, whose `context` frames are given. horizon:
  frames that are predicted in evaluation. loss: `l1` or `l2`. beta: of the divergence.
  samples: futures of every clip in evaluation. flip: probability of mirroring a clip in training.
  judges: variables of the networks that look at predictions, see `evaluation.perceptual`.
  span: the frames whose features are compared, the `predicted` ones, or `all`, with the context.
  """

  module: nn.Module
  placement: parallel.Placement
  horizon: int
  loss_name: str = "l1"
  beta: float = 1e-4
  samples: int = 1
  flip: float = 0.0
  judges: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
  span: str = "predicted"
  dtype: Any = jnp.float32
  num_classes: int = 1

  @property
  def context(self) -> int:
    """Frames that are given."""
    return self.module.context

  def loss(
    self,
    variables: base.Variables,
    frozen: PyTree,
    batch: base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], base.Aux]:
    """Returns the mean over the batch of weight * (reconstruction + beta * divergence).

    Both are sums over all steps, from frame 2 on: of a frame's mean error, and of the divergence
    summed over the latent's channels and places, in nats. See `base.Task`.
    """
    del frozen, step
    positions = batch["position"]
    keys = {
      name: streams.example_keys(streams.stream(root, name), positions)
      for name in ("flip", "latent")
    }
    clips = self._pixels(self._flipped(batch["clip"], keys["flip"]))
    found, model_state = self.module.apply(
      variables,
      clips,
      batch.get("actions"),
      train=True,
      keys={"latent": keys["latent"]},
      mutable=[name for name in variables if name != "params"],
    )
    error = found.frames - clips[:, 1:].astype(jnp.float32)
    error = jnp.abs(error) if self.loss_name == "l1" else jnp.square(error)
    frames = error.mean((2, 3, 4))
    each, count = frames.sum(1), jnp.float32(frames.size)
    metrics = {"reconstruction": (jnp.sum(frames), count)}
    if found.posterior is not None:
      kl = losses.gaussian_kl(*found.posterior, *found.prior).sum((2, 3, 4))
      each = each + self.beta * kl.sum(1)
      metrics["kl"] = (jnp.sum(kl), count)
    return jnp.mean(batch["weight"] * each), base.Aux(metrics, dict(model_state))

  def _flipped(
    self, clips: UInt8[Array, "b t h w 3"], keys: Key[Array, " b"]
  ) -> UInt8[Array, "b t h w 3"]:
    if not self.flip:
      return clips
    drawn = jax.vmap(lambda key: jax.random.uniform(key) < self.flip)(keys)
    return jnp.where(drawn[:, None, None, None, None], clips[..., ::-1, :], clips)

  def _pixels(self, clips: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t h w c"]:
    """Returns clips in [0, 1] as the module takes them, on the mesh; of one channel if it does."""
    found = clips.astype(jnp.float32) / 255
    if self.module.channels == 1:
      found = found.mean(-1, keepdims=True)
    return self.placement.split_images(found.astype(self.dtype))

  def futures(
    self, variables: base.Variables, batch: base.Batch
  ) -> tuple[Float[Array, "b n t h w 3"], Float[Array, "b t h w 3"]]:
    """Returns `samples` futures of every clip and the whole clip, in [0, 1].

    A future is a function of the clip's `index` and the number of the sample: the same every time.
    """
    network = {name: tree for name, tree in variables.items() if name != _JUDGES}
    clips, index = self._pixels(batch["clip"]), batch["index"]
    words = jnp.stack([jnp.zeros_like(index), index], -1).astype(jnp.uint32)
    keys = streams.example_keys(streams.stream(jax.random.key(0), "sample"), words)
    made = self.module.apply(
      network,
      clips,
      batch.get("actions"),
      horizon=self.horizon,
      count=self.samples,
      keys=keys,
      method="sample",
    )
    whole = clips[:, : self.context + self.horizon].astype(jnp.float32)
    if self.module.channels == 1:
      made, whole = (jnp.repeat(x, 3, -1) for x in (made, whole))
    return made, whole

  def predict(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns what `evaluation.prediction` takes: figures of all samples' frames, and features."""
    judges = variables.get(_JUDGES, self.judges)
    made, whole = self.futures(variables, batch)
    return self._judged(judges, made, whole)

  def _judged(
    self, judges: Mapping[str, PyTree], made: Float[Array, "b n t h w 3"], whole: Array
  ) -> dict[str, Array]:
    truth = whole[:, self.context :]
    held = jnp.broadcast_to(whole[:, self.context - 1 : self.context], truth.shape)
    measures = {"psnr": lambda a, b: jnp.minimum(similarity.psnr(a, b), _MOST)}
    measures["ssim"] = similarity.ssim
    if "cosine" in judges:
      measures["cosine"] = lambda a, b: _by_frame(
        lambda x, y: evaluation.perceptual.cosine(judges["cosine"], x, y), a, b
      )
    outputs = {}
    for name, measure in measures.items():
      outputs[name] = measure(made, jnp.broadcast_to(truth[:, None], made.shape))
      outputs[f"{name}_copy"] = measure(held, truth)
    looks = {
      "frechet_digits": evaluation.perceptual.digits_features,
      "fvd": evaluation.perceptual.i3d_features,
    }
    for name, look in looks.items():
      if name in judges:
        start = self.context if self.span == "predicted" else 0
        outputs[f"{name}_real"] = look(judges[name], whole[:, start:])

        def one(sample, look=look, own=judges[name]):
          known = whole[:, : self.context]
          clip = sample if self.span == "predicted" else jnp.concatenate([known, sample], 1)
          return look(own, clip)

        # One sample of every clip at a time: I3D's features of all would not fit.
        outputs[f"{name}_made"] = jnp.moveaxis(jax.lax.map(one, jnp.moveaxis(made, 1, 0)), 0, 1)
    return outputs

  def drawn(self, variables: base.Variables, batch: base.Batch) -> dict[str, Array]:
    """Returns what people look at: uint8 `whole`, the clips, and `shown` (b n t h w 3), futures.

    The first of these is the best by SSIM, the others are the first samples; with the figures of
    `predict`, but no features.
    """
    made, whole = self.futures(variables, batch)
    judges = {
      name: tree for name, tree in variables.get(_JUDGES, self.judges).items() if name == "cosine"
    }
    outputs = self._judged(judges, made, whole)
    best = jnp.argmax(outputs["ssim"].mean(2), 1)
    best = jnp.take_along_axis(made, best[:, None, None, None, None, None], 1)
    shown = jnp.concatenate([best, made[:, :_SHOWN]], 1) if self.samples > 1 else best
    levels = {
      name: jnp.rint(x * 255).astype(jnp.uint8) for name, x in (("shown", shown), ("whole", whole))
    }
    return {**outputs, **levels}

  @property
  def figures(self) -> tuple[str, ...]:
    """Names of the figures that `evaluate` returns."""
    return evaluation.prediction.names(self.judges)

  def evaluate(
    self, outputs: dict[str, np.ndarray], examples: dict[str, np.ndarray], source: Any = None
  ) -> dict[str, float]:
    """Returns the figures of `evaluation.prediction`."""
    del examples, source
    return evaluation.prediction.prediction(outputs)


def _by_frame(measure: Any, a: Float[Array, "*b h w 3"], b: Float[Array, "*b h w 3"]) -> Array:
  flat = [x.reshape(-1, *x.shape[-3:]) for x in (a, b)]
  return measure(*flat).reshape(a.shape[:-3])


# ---- Settings ------------------------------------------------------------------------------------

_TASK: dict[str, Any] = {
  "context": 2,
  "horizon": 10,
  "test_horizon": 10,
  "loss": "l1",
  "beta": 1e-4,
  "samples": 10,
  "span": "predicted",
  "i3d": "",
  "vgg16": "",
}
_CLIPS = {"stride": 1, "short": "refuse"}


def settings(config: Any) -> dict[str, Any]:
  """Returns `config.task` and `config.data.clips` with defaults, checked. Raises: UserError."""
  found = {}
  clips = config.data.clips.to_dict() if "clips" in config.data else {}
  given = {name: value for name, value in config.task.items() if name != "name"}
  for key, values, known in (("task", given, _TASK), ("data.clips", clips, _CLIPS)):
    for name in values:
      if name not in known:
        raise errors.unknown(f"config.{key}", name, "a setting of this task", known)
    found |= {**known, **values}
  for key, names in (
    ("task", ("context", "horizon", "test_horizon", "samples")),
    ("data.clips", ("stride",)),
  ):
    for name in names:
      value = found[name]
      if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise errors.UserError(
          f"config.{key}.{name}={value!r} should be a whole number of at least 1."
        )
  for key, name, options in (
    ("task", "loss", LOSSES),
    ("task", "span", SPANS),
    ("data.clips", "short", data.sequences.SHORT),
  ):
    if found[name] not in options:
      raise errors.unknown(f"config.{key}.{name}", found[name], "one of its values", options)
  beta = found["beta"]
  if isinstance(beta, bool) or not isinstance(beta, int | float) or beta < 0:
    raise errors.UserError(f"config.task.beta={beta!r} should be a number of at least 0.")
  if found["i3d"]:
    compared = found["test_horizon"] + (found["context"] if found["span"] == "all" else 0)
    if compared < i3d.LEAST_FRAMES:
      raise errors.UserError(
        f"config.task.i3d={found['i3d']!r}: FVD looks at {i3d.LEAST_FRAMES} frames or more, "
        f"config.task.test_horizon={found['test_horizon']} with config.task.span="
        f"{found['span']!r} gives {compared}."
      )
  return found


def create(
  config: Any, placement: parallel.Placement, *, group: ops.Group, split: ops.Split | None
) -> Prediction:
  """Returns the task of `config`. group, split: of the module. Raises: UserError."""
  found, model = settings(config), config.model.to_dict()
  name = model.pop("name")
  entry = models.entry(name)
  if entry.task != "prediction":
    known = models.list_models(task="prediction")
    raise errors.unknown("config.model.name", name, "a model that predicts", known)
  for key, value, where in (
    ("context", found["context"], "config.task.context"),
    ("frames", found["context"] + found["horizon"], "config.task.context + config.task.horizon"),
    ("image_size", config.data.image_size, "config.data.image_size"),
  ):
    if model.setdefault(key, value) != value:
      raise errors.UserError(f"config.model.{key}={model[key]} differs from {where}={value}.")
  module = models.create(name, group=group, **model).clone(split=split)
  augmented = config.augment.to_dict()
  for key in augmented:
    if key != "flip":
      raise errors.unknown("config.augment", key, "a change of clips", ("flip",))
  flip = augmented.get("flip", 0.0)
  flip = 0.5 * flip if isinstance(flip, bool) else flip
  if not isinstance(flip, int | float) or not 0 <= flip <= 1:
    raise errors.UserError(f"config.augment.flip={flip!r} should be a probability, in [0, 1].")
  if flip and module.actions:
    raise errors.UserError(
      f"config.augment.flip={flip}: what an action means in a mirror is not known; set it to 0.0, "
      "or config.model.actions to 0."
    )
  return Prediction(
    module=module,
    placement=placement,
    horizon=found["test_horizon"],
    loss_name=found["loss"],
    beta=float(found["beta"]),
    samples=found["samples"],
    flip=float(flip),
    judges=judges(found),
    span=found["span"],
    dtype=jnp.dtype(module.dtype),
  )


def judges(found: Mapping[str, Any]) -> dict[str, PyTree]:
  """Returns the variables of the networks that settings ask for. Raises: UserError."""
  made = {"frechet_digits": evaluation.perceptual.digits_variables()}
  for name, judge, read in (
    ("i3d", "fvd", evaluation.perceptual.i3d_variables),
    ("vgg16", "cosine", evaluation.perceptual.vgg16_variables),
  ):
    if found[name]:
      key = f"config.task.{name}"
      made[judge] = read(evaluation.perceptual.read(found[name], key), f"{key}={found[name]!r}")
  return made


def transform(config: Any, *, training: bool) -> data.sequences.Sequences:
  """Returns the transform of a config's films, random in training. Raises: UserError."""
  found = settings(config)
  return data.sequences.Sequences(
    config.data.image_size,
    found["context"] + found["horizon" if training else "test_horizon"],
    stride=found["stride"],
    training=training,
    actions=config.model.get("actions", 0),
    short=found["short"],
    interpolation=config.data.interpolation or "bilinear",
  )
