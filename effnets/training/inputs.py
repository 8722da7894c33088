"""From a config to what the loop takes: mesh, streams, evaluation sets, durations, optimizer."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from effnets import configuration, data, errors, models, parallel, tasks
from effnets.training import optimizers, schedules


@dataclasses.dataclass(frozen=True)
class Training:
  """What a training reads.

  stream: endless, random access by position. batch_size: examples of a step, of all sources.
  labelled: of them from the first source, which alone counts epochs and scales learning rates.
  epoch: examples in the first source. class_names: of the labels.
  """

  stream: Any
  batch_size: int
  labelled: int
  epoch: int
  class_names: tuple[str, ...]

  @property
  def num_classes(self) -> int:
    """How many classes the labels have."""
    return len(self.class_names)

  @property
  def steps_per_epoch(self) -> float:
    """Labelled epochs, not rounded."""
    return self.epoch / self.labelled

  def abstract_batch(self, placement: parallel.Placement) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a placed batch, from the stream's first example."""
    return {
      name: jax.ShapeDtypeStruct(
        (self.batch_size, *np.shape(value)), np.asarray(value).dtype, sharding=placement.batch
      )
      for name, value in self.stream[0].items()
    }


def placement(config: Any, devices: Sequence[jax.Device] | None = None) -> parallel.Placement:
  """Returns the placement of `config` over `devices`; default: all that are here."""
  rules = tuple(tuple(rule) for rule in config.sharding.rules)
  return parallel.create(
    config.mesh.to_dict(),
    execution=config.execution,
    rules=rules or parallel.DEFAULT_RULES,
    min_size=config.sharding.min_size or parallel.DEFAULT_MIN_SIZE,
    devices=devices,
  )


def training(config: Any, sources: Mapping[str, data.Source]) -> Training:
  """Returns the training stream of `config`, its sources opened and checked.

  Args:
    sources: data made by an earlier stage, by the name that the config calls it.
  """
  labelled, unlabelled = configuration.step_batch(config)
  source = _labelled(config, "train", sources)
  stream = _stream(config, source, "")
  if unlabelled:
    more = config.data.unlabelled
    key = "config.data.unlabelled"
    other = _open(more, more.split, sources, key=key, split_key=f"{key}.split")
    weights = np.array([1.0, more.weight or more.ratio])
    stream = data.Mixture(
      [stream, _stream(config, other, "unlabelled")],
      counts=[labelled, unlabelled],
      weights=list(weights / weights.sum() if more.average else weights),
      max_unreadable=config.data.max_unreadable,
    )
  return Training(stream, labelled + unlabelled, labelled, len(source), tuple(source.class_names))


def evaluation(
  config: Any, part: str, sources: Mapping[str, data.Source] = MappingProxyType({})
) -> data.Source:
  """Returns the labelled data's split that plays the `part`: `validation`, `test` or `train`.

  sources: see `training`.
  """
  return _labelled(config, part, sources)


def evaluation_transform(config: Any, source: data.Source) -> data.decode.Transform | None:
  """Returns what brings the pictures of `source` to the model's size, always in the same way."""
  own = tasks.transform(config, training=False)
  if own or "image" not in data.inputs(source):
    return own
  size = config.data.image_size
  if source.image_size == size:
    return None
  return data.decode.CentreCrop(
    size,
    # Pictures that come in one size were cut before.
    crop_fraction(config) if source.image_size is None else 1.0,
    interpolation(config),
    squash=config.data.resize == "squash",
  )


def training_transform(config: Any, source: data.Source) -> data.decode.Transform | None:
  """Returns what brings the pictures of `source` to the model's size in training."""
  own = tasks.transform(config, training=True)
  if own or "image" not in data.inputs(source):
    return own
  if config.data.random_crop and source.image_size is None:
    return data.decode.RandomCrop(
      config.data.image_size,
      fraction=crop_fraction(config),
      interpolation=interpolation(config),
    )
  return evaluation_transform(config, source)


def crop_fraction(config: Any) -> float:
  """Returns the side of the evaluation crop over the picture's shorter side."""
  settings, size = config.data, config.data.image_size
  if settings.crop_fraction:
    return settings.crop_fraction
  padding = settings.crop_padding
  if padding < 0:
    padding = models.entry(config.model.name).crop_padding
  return size / (size + padding)


def interpolation(config: Any) -> str:
  """Returns how pictures are resized, `bilinear` or `bicubic`."""
  return config.data.interpolation or models.entry(config.model.name).interpolation


def batches(
  config: Any, placement: parallel.Placement, examples: Training, start: int
) -> data.batches.Placed:
  """Returns the training batches on the mesh from position `start` on, read ahead."""
  host = data.train_batches(
    examples.stream,
    examples.batch_size,
    start=start,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    workers=config.data.workers,
    threads=config.data.threads,
  )
  return data.place(host, placement.mesh)


def _labelled(config: Any, part: str, sources: Mapping[str, data.Source]) -> data.Source:
  settings, key = config.data, f"config.data.split.{part}"
  return _open(settings, settings.split[part], sources, key="config.data", split_key=key)


def _open(
  settings: Any, split: str, sources: Mapping[str, data.Source], **keys: str
) -> data.Source:
  if settings.source in sources:
    return sources[settings.source]
  return data.open_source(settings.source, split, options=settings.options.to_dict(), **keys)


def _stream(config: Any, source: data.Source, name: str) -> Any:
  return data.ordered(
    source,
    seed=config.seed,
    name=name,
    transform=training_transform(config, source),
    max_unreadable=config.data.max_unreadable,
  )


def check_batches(config: Any, placement: parallel.Placement) -> None:
  """Checks that batches divide over the mesh.

  Raises: UserError with the nearest sizes that do.
  """
  shards = placement.batch_shards
  parts = shards * config.accumulate

  def total(size: int) -> int:
    changed = ml_collections.ConfigDict(config)
    changed.batch_size = size
    return sum(configuration.step_batch(changed))

  for key, divisor, count in (
    ("batch_size", parts, total),
    ("eval_batch_size", shards, lambda size: size),
  ):
    size = config[key]
    if size >= 1 and count(size) % divisor == 0:
      continue
    what = f"config.{key}={size}"
    if count(max(size, 0)) != size:
      what += f" (with its unlabelled examples {count(max(size, 0))})"
    steps = f" x {config.accumulate} accumulation steps" if parts != shards else ""
    fitting = [n for n in range(1, max(size, 0) + 2 * divisor + 1) if count(n) % divisor == 0]
    nearest = sorted(sorted(fitting, key=lambda n: abs(n - size))[:2])
    raise errors.UserError(
      f"{what} does not divide over data*fsdp={shards} device(s){steps}; nearest: "
      f"{' or '.join(map(str, nearest))}."
    )


def total_steps(config: Any, examples: Training) -> int:
  """Returns how many updates a run has.

  Raises: UserError if it is not exactly one of `config.train.steps` and so on, or is below 1.
  """
  given = {f"train_{unit}": value for unit, value in config.train.items() if value}
  total = schedules.steps(given, "train", **_units(examples))
  if total < 1:
    raise errors.UserError(f"config.train={dict(config.train)} is not even one step.")
  return total


def every(settings: Any, key: str, examples: Training, total: int) -> int:
  """Returns the period in steps, at least 1, of `every_steps`, `every_epochs` and so on."""
  given = {name: v for name, v in settings.items() if name.startswith("every_") and v}
  period = schedules.steps(given, "every", **_units(examples), total_steps=total, key=key)
  return max(1, period)


def _units(examples: Training) -> dict[str, Any]:
  return {"steps_per_epoch": examples.steps_per_epoch, "batch_size": examples.labelled}


def schedule(config: Any, examples: Training, total: int) -> optax.Schedule:
  """Returns the learning-rate schedule."""
  rate = config.optimizer.get("learning_rate")
  if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < math.inf:
    raise errors.UserError(f"config.optimizer.learning_rate={rate!r} is not a positive number.")
  peak = schedules.scaled(
    rate,
    batch_size=config.batch_size,
    per_examples=config.optimizer.get("learning_rate_per_examples"),
  )
  return schedules.create(
    config.schedule, learning_rate=peak, total_steps=total, **_units(examples)
  )


def optimizer(
  config: Any, schedule: optax.Schedule, task: tasks.Task
) -> optax.GradientTransformation:
  """Returns the optimizer; it leaves alone what the config or the task freezes.

  Parameters that the task has an optimizer of its own for, `task.apart`, are moved by that.
  """
  frozen = (*config.optimizer.get("frozen", ()), *task.frozen)
  made = optimizers.create({**config.optimizer, "frozen": frozen}, schedule)
  apart = getattr(task, "apart", {})
  return optimizers.partitioned(made, apart) if apart else made
