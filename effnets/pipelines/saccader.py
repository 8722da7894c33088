"""Saccader: a network of patches, where to look taught by itself, then by what comes of it.

`config.pipeline` has `name: "saccader"`, `stages` (a comma list of those below), a section of each
with overrides of the whole config, `evaluation`, and `classifier_weights`. A section's `model` that
has a `name` makes it that network, with the settings that both have.

  represent       the network of patches, by the mean of all their logits
  locate          from `represent`, which stays as it is: the location network learns to look where
                  the predicted class's logits are highest
  reinforce       from `locate`: all of it, by policy gradient and cross-entropy
  reinforce_only  the same from `represent`, without `locate`; its section is over `reinforce`
  dram            the baseline, from scratch
  full            a network that sees whole images, from scratch
  patches         from `reinforce`, which stays as it is: a network for the patches that it chooses
                  in larger pictures; from `classifier_weights` (see `config.weights`) or scratch

Every stage has a folder of its own, is skipped when its `result.json` is there, and resumes inside
when it was cut off. One whose predecessor is not to be trained here takes the one that is in the
workdir, or, with `weights: "run:DIR"` in its section, that of another run.

`evaluation`, of the Saccaders on the test split:

  glimpses   up to how many
  policies   comma list of `models.saccader.POLICIES`
  sizes      of images, in pixels, at which the last Saccader is looked at too
  pictures   on which glimpses are drawn

Source: Elsayed et al. 2019 (arXiv 1908.07644), section 3.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import PyTree
from rich import box, table, text
from rich import console as rich_console

from effnets import configuration, data, errors, evaluation, models, parallel, training, workdirs
from effnets import tasks as task_lib
from effnets.pipelines import glimpse_pictures


@dataclasses.dataclass(frozen=True)
class Kind:
  """A stage. task: that it trains. before: the stage it starts from. sections: of the config."""

  task: str
  before: str = ""
  sections: tuple[str, ...] = ()


STAGES: Mapping[str, Kind] = {
  "represent": Kind("classification"),
  "locate": Kind("location", "represent"),
  "reinforce": Kind("reinforcement", "locate"),
  "reinforce_only": Kind("reinforcement", "represent", ("reinforce", "reinforce_only")),
  "dram": Kind("reinforcement"),
  "full": Kind("classification"),
  "patches": Kind("patches", "reinforce"),
}
_LOOKING = ("locate", "reinforce", "reinforce_only")
_EVALUATION = ("glimpses", "policies", "sizes", "pictures")
_SETTINGS = ("name", "stages", "evaluation", "classifier_weights", *STAGES)
# Glimpses that the table has columns for.
_SHOWN = (1, 2, 4, 6, 12)
# What has one figure, not one a glimpse, and how the table calls it.
_WHOLE = {"all": "all patches", "complement": "all but what was looked at"}


@dataclasses.dataclass(frozen=True)
class Stage:
  """A finished stage. result: what its `result.json` holds."""

  name: str
  config: ml_collections.ConfigDict
  variables: PyTree
  result: dict[str, Any]


def run(config: Any, workdir: str, console: rich_console.Console) -> dict[str, Any]:
  """Runs what is missing, prints the table and returns what `result.json` holds.

  That is `stages`, by name: figures of both splits and `seconds`; `policies`, by stage and policy,
  and `sizes`, by image size and policy: `top1`, `top5`, `coverage` and `diversity`, one value a
  number of glimpses, one alone of `all` patches and of the `complement`: all patches of pictures in
  which the glimpses of the first policy are black; `glimpses` of the last stage,
  `receptive_field`, `seed`, `seconds`.

  Raises: UserError for a mistake in any stage's config, before the first one starts, and for a
    stage whose predecessor is not there.
  """
  path = pathlib.Path(workdir)
  pipeline = _Pipeline(config, path)
  pipeline.check()
  # Every stage's own config is compared with that in its folder.
  free = ("stages", "evaluation", "classifier_weights", *STAGES)
  keys = [f"pipeline.{name}" for name in free]
  parallel.on_first(lambda: workdirs.claim(path, config, free=keys))
  found = {name: pipeline.train(name) for name in pipeline.stages}
  policies, sizes, pictures = {}, {}, []
  for name, stage in found.items():
    if name in _LOOKING:
      policies[name], shown = pipeline.judge(stage)
      pictures = shown or pictures
    elif name == "dram":
      policies[name] = {"dram": pipeline.steps(stage)}
  last = next(
    (found[name] for name in ("reinforce", "reinforce_only", "locate") if name in found), None
  )
  for size in config.pipeline.evaluation.sizes if last else ():
    sizes[str(size)], _ = pipeline.judge(last, size=size)
  result = {
    "stages": {name: stage.result for name, stage in found.items()},
    "policies": policies,
    "sizes": sizes,
    "glimpses": pipeline.glimpses(),
    "seed": config.seed,
    "seconds": round(sum(stage.result["seconds"] for stage in found.values()), 1),
  }
  training.results.write(path, result)
  if jax.process_index() == 0:
    groups = policies | {f"{size} pixels": found for size, found in sizes.items()}
    if groups:
      glimpse_pictures.curves(groups, path / "plots" / "policies.png")
    if pictures:
      with workdirs.writing(path, "plots/glimpses.png", binary=True) as file:
        glimpse_pictures.sheet(pictures, file)
    console.print(_table(result, config))
  return result


def planned_stages(config: Any) -> dict[str, tuple[Any, bool]]:
  """Returns the config of every stage; none has pseudo-labels."""
  pipeline = _Pipeline(config, pathlib.Path())
  return {name: (pipeline.config(name), False) for name in pipeline.stages}


def last_stage(config: Any, workdir: str | pathlib.Path) -> tuple[Any, pathlib.Path]:
  """Returns config and folder of the furthest network in `workdir`, controls last.

  Raises: UserError if there is none yet, or `config.pipeline` is wrong.
  """
  pipeline = _Pipeline(config, pathlib.Path(workdir))
  for name in ("patches", "reinforce", "locate", "represent", "reinforce_only", "dram", "full"):
    folder = pipeline.folder(name)
    if training.checkpoints.present(folder / "checkpoints"):
      return pipeline.config(name), folder
  raise errors.UserError(f"--workdir={workdir} holds no checkpoints; train there first.")


class _Pipeline:
  """The stages of one config, in its folder. stages: those that are asked for, in order."""

  def __init__(self, config: Any, path: pathlib.Path):
    """Raises: UserError if `config.pipeline` sets what is not there."""
    self._config, self._path = config, path
    settings = config.pipeline
    _check_names("config.pipeline", settings, _SETTINGS)
    for name in (*STAGES, "evaluation"):
      if not isinstance(settings[name], ml_collections.ConfigDict):
        raise errors.UserError(
          f"config.pipeline.{name}={settings[name]!r} is not a section; write {{}} for no changes."
        )
    _check_names("config.pipeline.evaluation", settings.evaluation, _EVALUATION)
    asked = [part.strip() for part in str(settings.stages).split(",") if part.strip()]
    for name in asked:
      if name not in STAGES:
        raise errors.unknown("config.pipeline.stages", name, "a stage", STAGES)
    if not asked:
      raise errors.UserError(
        "config.pipeline.stages is empty; name some, such as 'represent,locate,reinforce'."
      )
    self.stages = tuple(name for name in STAGES if name in asked)
    policies = str(settings.evaluation.policies).split(",")
    self.policies = tuple(part.strip() for part in policies if part.strip())
    for name in self.policies:
      if name not in models.saccader.POLICIES:
        key = "config.pipeline.evaluation.policies"
        raise errors.unknown(key, name, "a policy", models.saccader.POLICIES)

  def folder(self, name: str) -> pathlib.Path:
    """Returns where a stage lives."""
    return self._path / name

  def config(self, name: str) -> Any:
    """Returns the config of a stage. Raises: UserError if it is wrong."""
    kind = STAGES[name]
    made = ml_collections.ConfigDict(self._config.to_dict())
    made.pipeline = ml_collections.ConfigDict({"name": ""})
    made.task.name = kind.task
    for section in kind.sections or (name,):
      key, overrides = f"config.pipeline.{section}", self._config.pipeline[section]
      other = overrides.get("model", {}).get("name", made.model.name)
      if other != made.model.name:
        made.model = _network(other, made, kind.task)
      configuration.merge(made, overrides, key=key)
    with errors.context(f"stage {name}"):
      configuration.check(made)
    return made.lock()

  def glimpses(self) -> int:
    """Returns how many glimpses a finished Saccader has."""
    return self.config("reinforce").model.get("glimpses", 6)

  def check(self) -> None:
    """Checks every stage. Raises: UserError for what is wrong, or a predecessor that is missing."""
    for name in self.stages:
      with errors.context(f"stage {name}"):
        ready = training.prepare(self.config(name))
      if name in _LOOKING:
        key = "config.pipeline.evaluation"
        for size in (None, *self._config.pipeline.evaluation.sizes):
          with errors.context(f"{key}.sizes" if size else f"stage {name}"):
            grid = ready.task.module.grid(size)
          count = self._config.pipeline.evaluation.glimpses
          models.saccader.check_count(count, grid, f"{key}.glimpses")
      before = STAGES[name].before
      finished = training.results.read(self.folder(name)) is not None
      if before and not finished and before not in self.stages:
        self._check_before(name, before)

  def _check_before(self, name: str, before: str) -> None:
    folder = self.folder(before)
    present = training.checkpoints.present(folder / "checkpoints")
    if self.config(name).weights or (present and training.results.read(folder) is not None):
      return
    state = "is not finished" if present else "is not there"
    raise errors.UserError(
      f"config.pipeline.stages={self._config.pipeline.stages!r}: {name} starts from the checkpoint "
      f"of {before}, which {state} ({folder}). Name {before} too, or give another run's: "
      f"--config.pipeline.{name}.weights=run:DIR."
    )

  def train(self, name: str) -> Stage:
    """Returns a stage, trained if need be; see the module."""
    config, folder = self.config(name), self.folder(name)
    finished = training.results.read(folder)
    if finished is not None:
      workdirs.check_same_run(folder, config)
      variables = training.results.restore(config, folder).variables
      return Stage(name, config, variables, finished)
    result = training.train(config, folder, name=name, initial=self._initial(name, config))
    told = {
      f"{part}_{key}": value
      for part in ("validation", "test")
      for key, value in result.figures[config.data.split[part]].items()
    }
    told |= {"model": config.model.name, "seconds": round(result.seconds, 1)}
    training.results.write(folder, told)
    return Stage(name, config, result.variables, told)

  def _initial(self, name: str, config: Any) -> PyTree | None:
    """Returns the variables that a stage starts from; None: those of its config, or fresh ones."""
    before = STAGES[name].before
    if not before or training.checkpoints.present(self.folder(name) / "checkpoints"):
      return None
    task, _ = training.results.model(config)
    if config.weights:
      loaded = training.start.load(config)
    else:
      loaded = training.results.restore(self.config(before), self.folder(before)).variables
      loaded = parallel.to_host(loaded)
    if name != "patches":
      return training.start.fit(loaded, task, config)
    parts = {"locator": loaded}
    if self._config.pipeline.classifier_weights:
      own = ml_collections.ConfigDict(config.to_dict())
      own.weights = self._config.pipeline.classifier_weights
      parts["classifier_net"] = training.start.load(own)
    fresh = task.init(config.seed)
    for part, variables in parts.items():
      shapes = [
        jax.tree.map(np.shape, {kind: tree[part] for kind, tree in fresh.items()}),
        jax.tree.map(np.shape, dict(variables)),
      ]
      if shapes[0] != shapes[1]:
        raise errors.UserError(
          f"stage {name}: config.model's {part.partition('_')[0]} is another network than the one "
          "whose weights it gets."
        )
      for kind in fresh:
        fresh[kind][part] = variables[kind]
    return fresh

  def judge(
    self, stage: Stage, *, size: int = 0
  ) -> tuple[dict[str, dict[str, list[float]]], list[Any]]:
    """Returns the figures of all policies of a Saccader, and pictures with its glimpses.

    size: of the images, 0 for those it was trained on.
    """
    config = ml_collections.ConfigDict(stage.config.to_dict())
    settings = self._config.pipeline.evaluation
    if size:
      config.data.image_size = size
    size = config.data.image_size
    task, placement = training.results.model(config)
    count = min(self.glimpses(), settings.glimpses)
    predict = task_lib.glimpses.compare(
      task, self.policies, settings.glimpses, config.seed, hidden=count
    )
    predictor = training.evaluator.create(config, task, placement, predict=predict)
    source = training.inputs.evaluation(config, "test")
    transform = training.inputs.evaluation_transform(config, source)
    variables = placement.put(parallel.to_host(stage.variables), placement.state(stage.variables))
    outputs, examples = predictor.all(variables, source, transform)
    field, grid = task.module.field, task.module.grid(size)
    shape = {"grid": grid, "stride": field.stride, "side": field.size}
    found, windows = {}, {}
    for policy in self.policies:
      windows[policy] = evaluation.glimpses.grid_windows(outputs[f"{policy}/places"], **shape)
      hits = {name: outputs[f"{policy}/{name}"] for name in ("hits1", "hits5")}
      found[policy] = evaluation.glimpses.judged(hits, windows[policy], size)
    every = np.arange(grid**2)[None]
    seen = evaluation.glimpses.coverage(evaluation.glimpses.grid_windows(every, **shape), size)
    shares = {"all": float(seen[0, -1])}
    if self.policies:
      shares["complement"] = shares["all"] - found[self.policies[0]]["coverage"][count - 1]
    for name, share in shares.items():
      top1, top5 = (float(outputs[f"{name}/{hits}"].mean()) for hits in ("hits1", "hits5"))
      found[name] = {"top1": [top1], "top5": [top5], "coverage": [share], "diversity": [0.0]}
    pictures = []
    if self.policies and not jax.process_index():
      first = self.policies[0]
      for row in evaluation.glimpses.thinned(len(examples["index"]), settings.pictures):
        index = int(examples["index"][row])
        picture = _picture(config, source, transform, index)
        right = outputs[f"{first}/hits1"][row, count - 1]
        word = f"{source.class_names[int(examples['label'][row])]} {'right' if right else 'wrong'}"
        shown = windows[first][row, :count]
        pictures.append(glimpse_pictures.glimpses(picture, shown, word=word))
    return found, pictures

  def steps(self, stage: Stage) -> dict[str, list[float]]:
    """Returns the figures of a DRAM after every glimpse."""
    task, placement = training.results.model(stage.config)
    predictor = training.evaluator.create(stage.config, task, placement)
    source = training.inputs.evaluation(stage.config, "test")
    transform = training.inputs.evaluation_transform(stage.config, source)
    outputs, examples = predictor.all(stage.variables, source, transform)
    logits = outputs["step_logits"]
    if task.module.readout == "mean":
      logits = np.cumsum(logits, 1) / np.arange(1, logits.shape[1] + 1)[:, None]
    judged = [evaluation.classification(step, examples["label"]) for step in logits.swapaxes(0, 1)]
    windows, size = task.windows(outputs), stage.config.data.image_size
    return {
      "top1": [figures["top1"] for figures in judged],
      "top5": [figures["top5"] for figures in judged],
      "coverage": evaluation.glimpses.coverage(windows, size).mean(0).tolist(),
      "diversity": [
        float(evaluation.glimpses.diversity(windows[:, : t + 1], size).mean())
        for t in range(windows.shape[1])
      ],
    }


def _network(name: str, config: Any, task: str) -> ml_collections.ConfigDict:
  """Returns `config.model` for another network: what a Saccader's backbone has, it keeps."""
  known = models.entry(name).settings()
  if task == "classification":
    base = configuration.base().model.to_dict()
    base |= {"dropout_rate": 0.0, "drop_path_rate": 0.0, "dtype": config.model.dtype}
    kept = {key: value for key, value in base.items() if key in known}
  elif models.entry(name).name.startswith("saccader"):
    kept = {k: v for k, v in config.model.items() if k in known}
  else:
    kept = {"dtype": config.model.dtype}
  return ml_collections.ConfigDict({**kept, "name": name})


def _check_names(key: str, section: Any, names: tuple[str, ...]) -> None:
  for name in section:
    if name not in names:
      raise errors.unknown(key, name, "a setting", names)
  for name in names:
    if name not in section:
      raise errors.UserError(f"{key}.{name} is missing; see recipes.saccader.")


def _picture(config: Any, source: Any, transform: Any, index: int) -> Any:
  example = source[index]
  if transform is None:
    return example["image"]
  draw = lambda name: data.draws.generator(config.seed, name, index)  # noqa: E731
  return transform(example, draw)["image"]


def _table(result: dict[str, Any], config: Any) -> table.Table:
  """Returns top-1 by glimpses, and the area after as many as the last stage has."""
  count = result["glimpses"]
  rows = table.Table(
    title=f"Saccader, {config.data.source}, {config.data.split.test} split, seed {config.seed}",
    box=box.SIMPLE_HEAD,
    title_justify="left",
    caption=f"Top-1 in percent by glimpses; area: looked at after {count} of them.",
    caption_justify="left",
    padding=(0, 1, 0, 0),
  )
  most = max((len(f["top1"]) for p in result["policies"].values() for f in p.values()), default=0)
  shown = [t for t in _SHOWN if t <= most]
  rows.add_column("stage, policy", overflow="fold")
  for t in (*shown, "area"):
    rows.add_column(str(t), justify="right", no_wrap=True)
  groups = result["policies"] | {f"{s} px": found for s, found in result["sizes"].items()}
  for stage, policies in groups.items():
    for policy, figures in policies.items():
      tops, area = figures["top1"], figures["coverage"]
      if policy in _WHOLE:
        cells = ["" for _ in shown[:-1]] + [f"{tops[0]:.1%}"]
      else:
        cells = [f"{tops[t - 1]:.1%}" if t <= len(tops) else "" for t in shown]
      name = stage if policy == stage else f"{stage}, {_WHOLE.get(policy, policy)}"
      rows.add_row(text.Text(name), *cells, f"{area[min(count, len(area)) - 1]:.1%}")
  for name, stage in result["stages"].items():
    if name not in result["policies"]:
      cells = ["" for _ in shown[:-1]] if shown else []
      rows.add_row(
        text.Text(f"{name}, {stage['model']}"),
        *cells,
        f"{stage['test_top1']:.1%}",
        *([""] if shown else []),
      )
  return rows
