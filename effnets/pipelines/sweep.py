"""A sweep: the same config with several changes, each trained at every seed, and compared.

`config.pipeline` has `name: "sweep"`, `seeds`, `metric` (the validation figure that ranks the runs)
and either

  runs   name -> overrides of the config
  axes   axis -> (name -> overrides): every combination is a run, named `one_two` after its values,
         axes in the order of their names; two axes are drawn as a heat map

Every run at every seed has a folder of its own, `RUN/seed_0`, is skipped when its `result.json` is
there, and resumes inside when it was cut off. Runs and seeds may be added to a finished sweep.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from rich import box, table, text
from rich import console as rich_console

from effnets import configuration, errors, evaluation, models, parallel, training, workdirs

_SETTINGS = ("axes", "metric", "name", "runs", "seeds")


@dataclasses.dataclass(frozen=True)
class Run:
  """One line of the sweep: its overrides, merged, as the config of each seed.

  values: its place on every axis, by axis; empty where the sweep has none.
  """

  name: str
  configs: Mapping[int, ml_collections.ConfigDict]
  values: Mapping[str, str]

  def folder(self, workdir: str | pathlib.Path, seed: int) -> pathlib.Path:
    """Returns where the run at `seed` lives."""
    return pathlib.Path(workdir) / self.name / f"seed_{seed}"


def run(config: Any, workdir: str, console: rich_console.Console) -> dict[str, Any]:
  """Trains what is missing, prints the ranking and returns what `result.json` holds.

  That is, by run, best first: `params` and `madds` of its model, `values` on the axes, one value a
  seed of every figure (`validation_top1`, `test_top1`, ...) and of the `seconds`; `seeds`, `best`.

  Raises: UserError for a mistake in any run's config, before the first one starts.
  """
  path, metric = pathlib.Path(workdir), config.pipeline.get("metric")
  members = members_of(config)
  counts = {}
  for name, member in members.items():
    first = next(iter(member.configs.values()))
    with errors.context(f"run {name}"):
      ready = training.prepare(first)
    if metric not in ready.task.figures:
      raise errors.unknown(
        "config.pipeline.metric", metric, "a figure of this task", ready.task.figures
      )
    counts[name] = models.count(ready.task.module, first.data.image_size)
  parallel.on_first(lambda: workdirs.claim(path, config, free=("pipeline.runs", "pipeline.seeds")))

  # Seed by seed: what a cut sweep leaves can be compared, and only the first seed compiles.
  finished: dict[str, list[dict[str, Any]]] = {name: [] for name in members}
  for seed in config.pipeline.seeds:
    for name, member in members.items():
      finished[name].append(_train(member, seed, path))
  rows = {
    name: {
      "params": counts[name].params,
      "madds": counts[name].madds,
      "values": dict(members[name].values),
      **_figures(members[name], results),
      "seconds": [round(result["seconds"], 1) for result in results],
    }
    for name, results in finished.items()
  }
  ranking = sorted(rows, key=lambda name: -_mean(rows[name], metric))
  result = {
    "runs": {name: rows[name] for name in ranking},
    "best": ranking[0],
    "metric": metric,
    "seeds": list(config.pipeline.seeds),
    "seconds": round(sum(second for row in rows.values() for second in row["seconds"]), 1),
  }
  training.results.write(path, result)
  if jax.process_index() == 0:
    _draw(result, path / "plots" / "sweep.png")
    console.print(_table(result, config))
  return result


def members_of(config: Any) -> dict[str, Run]:
  """Returns the runs of `config.pipeline` by name, in the order of their names (2 before 10).

  Raises: UserError if there is none, or it sets what is not there.
  """
  pipeline = config.pipeline
  for name in pipeline:
    if name not in _SETTINGS:
      raise errors.unknown("config.pipeline", name, "a setting", _SETTINGS)
  for name in _SETTINGS:
    if name not in pipeline:
      raise errors.UserError(f"config.pipeline.{name} is missing; see pipelines/sweep.py.")
  seeds = _seeds(pipeline.seeds)
  axes = _axes(pipeline)
  found = {}
  for place in itertools.product(*(_names(values) for values in axes.values())):
    name = "_".join(place)
    where = dict(zip(axes, place, strict=True))
    keys = [
      f"config.pipeline.{'runs' if axis is None else f'axes.{axis}'}.{value}"
      for axis, value in where.items()
    ]
    configs = {}
    for seed in seeds:
      single = ml_collections.ConfigDict(config.to_dict())
      single.pipeline = ml_collections.ConfigDict({"name": ""})
      for key, (axis, value) in zip(keys, where.items(), strict=True):
        _merge(single, axes[axis][value], key)
      single.seed = seed
      with errors.context(f"run {name}"):
        configuration.check(single)
      configs[seed] = single.lock()
    if name in found:
      raise errors.UserError(f"config.pipeline.axes: two combinations are called {name!r}.")
    found[name] = Run(name, configs, {axis: v for axis, v in where.items() if axis is not None})
  return found


def planned_stages(config: Any) -> dict[str, tuple[Any, bool]]:
  """Returns the config of every run at its first seed; none has pseudo-labels."""
  return {
    name: (next(iter(member.configs.values())), False)
    for name, member in members_of(config).items()
  }


def last_stage(config: Any, workdir: str | pathlib.Path) -> tuple[Any, pathlib.Path]:
  """Returns config and folder of the best run so far, at its first finished seed.

  Raises: UserError if none is finished, or `config.pipeline` is wrong.
  """
  best = None
  for member in members_of(config).values():
    done = {s: training.results.read(member.folder(workdir, s)) for s in member.configs}
    done = {seed: result for seed, result in done.items() if result is not None}
    if not done:
      continue
    score = _mean(_figures(member, list(done.values())), config.pipeline.metric)
    if best is None or score > best[0]:
      best = score, member, next(iter(done))
  if best is None:
    raise errors.UserError(f"--workdir={workdir} holds no finished run; train there first.")
  _, member, seed = best
  return member.configs[seed], member.folder(workdir, seed)


def _seeds(seeds: Any) -> tuple[int, ...]:
  whole = isinstance(seeds, tuple | list) and all(
    isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**32 for s in seeds
  )
  if not whole or not seeds or len(set(seeds)) < len(seeds):
    raise errors.UserError(
      f"config.pipeline.seeds={seeds!r} should be different whole numbers from 0, such as (0, 1)."
    )
  return tuple(seeds)


def _axes(pipeline: Any) -> dict[str | None, Any]:
  """Returns the values of every axis, by axis; `runs` is one without a name."""
  for section in ("runs", "axes"):
    _check_section(f"config.pipeline.{section}", pipeline[section])
  if bool(len(pipeline.runs)) == bool(len(pipeline.axes)):
    given = "both given" if len(pipeline.runs) else "both empty"
    raise errors.UserError(
      f"config.pipeline.runs and config.pipeline.axes are {given}; name runs, such as "
      "{'wide': {'model': {'width': 2.0}}}, or axes of such, not both."
    )
  axes = (
    {None: pipeline.runs}
    if len(pipeline.runs)
    else {a: pipeline.axes[a] for a in sorted(pipeline.axes, key=models.registry.natural)}
  )
  for axis, values in axes.items():
    key = "config.pipeline.runs" if axis is None else f"config.pipeline.axes.{axis}"
    _check_section(key, values)
    if not len(values):
      raise errors.UserError(f"{key} is empty; name at least one value, such as {{'one': {{}}}}.")
    for name in values:
      if not name.isidentifier():
        raise errors.UserError(f"{key}.{name}: a run's name is a word, such as 'wide'.")
      _check_section(f"{key}.{name}", values[name])
  return axes


def _check_section(key: str, section: Any) -> None:
  if not isinstance(section, ml_collections.ConfigDict):
    raise errors.UserError(f"{key}={section!r} is not a section; write {{}} for no changes.")


def _names(values: Any) -> list[str]:
  return sorted(values, key=models.registry.natural)


def _merge(config: Any, overrides: Any, key: str) -> None:
  for name in ("pipeline", "seed"):
    if name in overrides:
      raise errors.UserError(
        f"{key}.{name} cannot be set by a run; seeds are config.pipeline.seeds."
      )
  configuration.merge(config, overrides, key=key)


def _train(member: Run, seed: int, path: pathlib.Path) -> dict[str, Any]:
  """Returns the figures and seconds of the run at `seed`, from its folder if it is finished."""
  folder = member.folder(path, seed)
  finished = training.results.read(folder)
  if finished is not None:
    workdirs.check_same_run(folder, member.configs[seed])
    return finished
  name = f"{member.name}, seed {seed}"
  result = training.train(member.configs[seed], folder, name=name)
  figures = {"figures": result.figures, "steps": result.steps, "seconds": result.seconds}
  training.results.write(folder, figures)
  return figures


def _figures(member: Run, results: list[dict[str, Any]]) -> dict[str, list[float]]:
  """Returns one value a seed of every figure, named by the part its split plays."""
  split = next(iter(member.configs.values())).data.split
  return {
    f"{part}_{name}": [result["figures"][split[part]][name] for result in results]
    for part in ("validation", "test")
    for name in results[0]["figures"][split[part]]
  }


def _mean(figures: Mapping[str, Any], metric: str) -> float:
  return evaluation.comparison.mean_and_error(figures[f"validation_{metric}"])[0]


def _draw(result: dict[str, Any], path: pathlib.Path) -> None:
  metric = result["metric"]
  label = f"validation {metric}"
  rows = {name: row[f"validation_{metric}"] for name, row in result["runs"].items()}
  axes = list(next(iter(result["runs"].values()))["values"])
  if len(axes) != 2:
    evaluation.comparison.dots(rows, path, label=label)
    return
  place = {name: tuple(row["values"].values()) for name, row in result["runs"].items()}
  ordered = sorted(rows, key=lambda n: [models.registry.natural(value) for value in place[n]])
  cells = {place[name]: rows[name] for name in ordered}
  evaluation.comparison.heat_map(cells, path, label=label, axes=(axes[0], axes[1]))


def _table(result: dict[str, Any], config: Any) -> table.Table:
  """Returns the ranking, at most 80 characters wide: one row a run, the best first."""
  metric, seeds = result["metric"], result["seeds"]
  count = f"{len(seeds)} seeds, mean ± s.e." if len(seeds) > 1 else f"seed {seeds[0]}"
  rows = table.Table(
    title=f"Sweep, {config.data.source}, {count}",
    box=box.SIMPLE_HEAD,
    title_justify="left",
    caption=f"Ranked by {metric} on the {config.data.split.validation} split.",
    caption_justify="left",
  )
  rows.add_column("run", overflow="fold")
  for column in ("params", "MAdds", f"validation {metric}", f"test {metric}"):
    rows.add_column(column, justify="right", no_wrap=True)
  for name, row in result["runs"].items():
    rows.add_row(
      text.Text(name, overflow="fold"),
      f"{row['params']:,}",
      f"{row['madds'] / 1e6:.2f}M",
      *(evaluation.comparison.shown(row[f"{part}_{metric}"]) for part in ("validation", "test")),
    )
  return rows
