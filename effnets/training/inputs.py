"""From a config to the mesh, the training stream and the evaluation sets."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from effnets import configuration, data, errors, parallel


@dataclasses.dataclass(frozen=True)
class Training:
  """What a training reads.

  stream: endless, random access by position. batch_size: examples of a step, of all sources.
  steps_per_epoch: labelled epochs, a fraction. num_classes: of the labels.
  """

  stream: Any
  batch_size: int
  steps_per_epoch: float
  num_classes: int

  def abstract_batch(self, placement: parallel.Placement) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a placed batch, from the stream's first example."""
    return {
      name: jax.ShapeDtypeStruct(
        (self.batch_size, *np.shape(value)), np.asarray(value).dtype, sharding=placement.batch
      )
      for name, value in self.stream[0].items()
    }


def placement(config: Any) -> parallel.Placement:
  """Returns the placement of `config` over all devices."""
  rules = tuple(tuple(rule) for rule in config.sharding.rules)
  return parallel.create(
    config.mesh.to_dict(),
    execution=config.execution,
    rules=rules or parallel.DEFAULT_RULES,
    min_size=config.sharding.min_size or parallel.DEFAULT_MIN_SIZE,
  )


def training(config: Any) -> Training:
  """Returns the training stream of `config`, its sources opened and checked."""
  labelled, unlabelled = configuration.step_batch(config)
  source = _open(config, config.data.source, config.data.train_split)
  transform = _training_transform(config, source)
  stream = data.Stream(
    source, seed=config.seed, transform=transform, max_unreadable=config.data.max_unreadable
  )
  if unlabelled:
    more = config.data.unlabelled
    other = _open(config, more.source, more.split)
    stream = data.Mixture(
      [
        stream,
        data.Stream(
          other,
          seed=config.seed,
          name="unlabelled",
          transform=_training_transform(config, other),
          max_unreadable=config.data.max_unreadable,
        ),
      ],
      counts=[labelled, unlabelled],
      weights=[1.0, more.weight or more.ratio],
    )
  return Training(
    stream=stream,
    batch_size=labelled + unlabelled,
    steps_per_epoch=len(source) / config.batch_size,
    num_classes=source.num_classes,
  )


def evaluation(config: Any, split: str) -> data.Source:
  """Returns the source of an evaluation split of the labelled data."""
  return _open(config, config.data.source, split)


def _open(config: Any, name: str, split: str) -> data.Source:
  return data.open_source(
    name, split, options={"dir": config.data.dir, "image_size": config.data.image_size}
  )
