"""From a config to the update it asks for: checked, placed, and not compiled yet.

The loop compiles and runs it; a plan compiles it for devices that need not be here.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from effnets import configuration, data, errors, parallel, tasks
from effnets.training import inputs, optimizers, state, step

Sources = Mapping[str, data.Source]
NO_SOURCES: Sources = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Ready:
  """A config turned into what a training needs, all of it checked and nothing compiled.

  every_save, every_evaluation: periods in steps.
  """

  placement: parallel.Placement
  examples: inputs.Training
  splits: dict[str, data.Source]
  task: tasks.Task
  schedule: optax.Schedule
  optimizer: optax.GradientTransformation
  total_steps: int
  every_save: int
  every_evaluation: int


@dataclasses.dataclass(frozen=True)
class Program:
  """The update of a training before it is compiled.

  update: see `step.create`. placement: of what it takes. abstract: shapes of the state, which know
  where they live. given: shapes of what the task needs beside its variables, such as a teacher's.
  """

  update: step.Update
  placement: parallel.Placement
  abstract: state.TrainState
  given: PyTree = ()

  @property
  def shardings(self) -> PyTree:
    """Where every leaf of the state lives."""
    return jax.tree.map(lambda x: x.sharding, self.abstract)

  def lower(self, frozen: PyTree, batch: PyTree) -> jax.stages.Lowered:
    """Returns the update, traced. frozen, batch: arrays or shapes with shardings."""
    return step.lower_update(self.update, self.placement, self.abstract, frozen, batch)


class Programs:
  """What trainings of one process have compiled in common, by name.

  Configs that differ in `seed`, and in the values that variables begin at, are one program; whoever
  gives the same `Programs` to several trainings says that theirs do, and that their devices are the
  same.
  """

  def __init__(self):
    self._made: dict[str, Any] = {}

  def once(self, name: str, make: Callable[[], Any]) -> Any:
    """Returns what `make` has returned the first time that this name was asked for."""
    if name not in self._made:
      self._made[name] = make()
    return self._made[name]


def prepare(
  config: Any,
  sources: Sources = NO_SOURCES,
  *,
  stand_ins: Sources = NO_SOURCES,
  devices: Sequence[jax.Device] | None = None,
) -> Ready:
  """Returns mesh, data, task and optimizer of `config`.

  Args:
    sources: training data made by an earlier stage, by the name that the config calls it.
    stand_ins: what takes the place of data that is not here, for evaluation too.
    devices: of the mesh; default: all that are here.

  Raises: UserError for every mistake that can be known before compiling.
  """
  configuration.check(config)
  placement = inputs.placement(config, devices)
  inputs.check_batches(config, placement)
  examples = inputs.training(config, {**stand_ins, **sources})
  total_steps = inputs.total_steps(config, examples)
  task = tasks.create(
    config,
    placement,
    num_classes=examples.num_classes,
    step_batch=examples.batch_size // config.accumulate,
    total_steps=total_steps,
  )
  if config.checkpoint.best_metric not in task.figures:
    key, metric = "config.checkpoint.best_metric", config.checkpoint.best_metric
    raise errors.unknown(key, metric, "a figure of this task", task.figures)
  schedule = inputs.schedule(config, examples, total_steps)
  splits = {
    config.data.split[part]: inputs.evaluation(config, part, stand_ins)
    for part in ("validation", "test")
  }
  if isinstance(task, tasks.Text):
    for source in splits.values():
      task.check(source)
  return Ready(
    placement=placement,
    examples=examples,
    splits=splits,
    task=task,
    schedule=schedule,
    optimizer=inputs.optimizer(config, schedule, task),
    total_steps=total_steps,
    every_save=inputs.every(config.checkpoint, "config.checkpoint", examples, total_steps),
    every_evaluation=inputs.every(config.evaluation, "config.evaluation", examples, total_steps),
  )


def program(config: Any, ready: Ready) -> Program:
  """Returns the update of `config`, with the shapes and places of the state that it takes."""
  average = config.ema.decay > 0
  abstract = state.create(ready.task.abstract(), ready.optimizer, seed=config.seed, average=average)
  update = step.create(
    ready.task,
    ready.optimizer,
    ready.placement,
    batch_size=ready.examples.batch_size,
    schedule=ready.schedule,
    accumulate=config.accumulate,
    coupled_weight_decay=optimizers.coupled_weight_decay(config.optimizer),
    decays=optimizers.decay_rule(config.optimizer),
    ema_decay=config.ema.decay,
  )
  placed = state.placed(abstract, ready.placement.state(abstract))
  given = getattr(ready.task, "given", ())
  given = state.placed(given, ready.placement.state(given))
  return Program(update, ready.placement, placed, given)
