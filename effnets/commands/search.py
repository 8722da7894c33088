"""`--mode=search` and `--mode=worker`: an architecture search, and who helps it."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
from rich import console as rich_console
from rich import live, table, text

from effnets import errors, training, workdirs

# By which a run of a searched network, or of shared weights, knows its model in every mode.
from effnets.search import network as network
from effnets.search import sharing as sharing

_LINE_SECONDS = 5.0
_SHOWN = ("entropy", "policy_entropy")


def search(config: Any, workdir: str) -> None:
  """Searches, once, or as an experiment asks for; see `_search`, `akd`, `adapting`, `sharing`.

  Raises: UserError for a mistake in the config, a study of another one, or too many failures.
  """
  from effnets.search import adapting, akd

  if not any(name in config for name in ("akd", "netadapt", "one_shot")):
    with contextlib.suppress(training.Stopped):
      _search(config, workdir)
    return
  console = rich_console.Console()
  say = lambda text: console.print(text, soft_wrap=True, highlight=False)  # noqa: E731
  try:
    with training.stopping():
      if "akd" in config:
        for shown in _distilled(akd.run(config, workdir, _search, say), config):
          console.print(shown)
      elif "one_shot" in config:
        console.print(_shared(sharing.run(config, workdir, say), config))
      else:
        console.print(_adapted(adapting.run(config, workdir, say), config))
  except training.Stopped:
    console.print("The experiment was stopped; the same command goes on.")


def _adapted(result: dict[str, Any], config: Any) -> table.Table:
  """Returns the table of the network that NetAdapt began with and of the one it ended with."""
  metric, first, last = config.checkpoint.best_metric, result["path"][0], result["path"][-1]
  shown = _plain_table(f"test {metric}", ("network", config.netadapt.cost, metric))
  for name, label, step in (
    ("seed", "the one to start from", first),
    ("adapted", "narrowed, weights inherited", last),
    ("scratch", "narrowed, from scratch", last),
  ):
    figure = result[name].get(metric)
    shown.add_row(label, _number(step["cost"]), "" if figure is None else f"{figure:.4f}")
  return shown


def _shared(result: dict[str, Any], config: Any) -> table.Table:
  """Returns the table of the network that a one-shot search has found."""
  metric = config.checkpoint.best_metric
  shown = _plain_table("what was found", ("", metric, "MAdds", "params"))
  sizes = (_number(result["madds"]), _number(result["params"]))
  for name, label in (("shared", "by shared weights, validation"), ("alone", "alone, test")):
    shown.add_row(label, f"{result[name][metric]:.4f}", *sizes)
  return shown


def _plain_table(title: str, columns: Sequence[str]) -> table.Table:
  """Returns an empty table whose first column holds names, the others numbers."""
  shown = table.Table(title=title, title_justify="left", box=None, header_style="bold")
  for number, column in enumerate(columns):
    shown.add_column(column, justify="right" if number else "left")
  return shown


def _distilled(result: dict[str, Any], config: Any) -> list[table.Table]:
  """Returns the tables of an experiment with teachers: students, the matrix, the transfer."""
  found = [_students(result, config)]
  if "matrix" in result:
    found.append(_matrix(result["matrix"], config))
  if "transfer" in result:
    moved = result["transfer"]
    title = f"test {moved['figure']} on {moved['data']}, from what the students have learned"
    shown = _plain_table(title, ("search", "without teacher", "with teacher"))
    for arm, rows in moved["students"].items():
      for row in rows:
        shown.add_row(
          f"{arm}, seed {row['seed']}", *(f"{row[how]:.4f}" for how in ("plain", "taught"))
        )
    found.append(shown)
  return found


def _matrix(found: dict[str, Any], config: Any) -> table.Table:
  """Returns the table of random students, by number, under every teacher; means over seeds."""
  numbers = range(1, len(found["students"]) + 1)
  title = f"test {config.checkpoint.best_metric} of random students of nearly equal cost"
  shown = _plain_table(title, ("teacher", *map(str, numbers), "best", "spread"))
  for teacher, row in found["figures"].items():
    figures = (f"{sum(values) / len(values):.4f}" for values in row)
    best, spread = found["best"][teacher], found["spread"][teacher]
    shown.add_row(teacher, *figures, str(best), f"{spread:.4f}")
  return shown


def _students(result: dict[str, Any], config: Any) -> table.Table:
  """Returns the table of networks by search, trained without and with a teacher."""
  shown = _plain_table(
    f"test {config.checkpoint.best_metric} of what was found",
    ("search", "MAdds", "without teacher", "with teacher"),
  )
  for arm, rows in result["students"].items():
    for row in rows:
      figures = (f"{row[how]:.4f}" for how in ("plain", "taught"))
      shown.add_row(f"{arm}, seed {row['seed']}", _number(row["madds"]), *figures)
  return shown


def _search(config: Any, workdir: str) -> None:
  """Searches as `config.search` says until it has its trials, and leaves what it found.

  In `workdir`: study.db (or the database that the config names), best.json, plots/pareto.png,
  plots/rewards.png, report.html. The same command goes on where the last start ended.

  Raises: UserError for a mistake in the config, a study of another one, or too many failures.
  """
  from effnets.search import running, section, settings

  if jax.process_count() > 1:
    raise errors.UserError(
      "a search is one process of its own; start others with --mode=worker, not as processes of it."
    )
  path = pathlib.Path(workdir)
  made = settings.create(config, path)
  algorithm = made.algorithm()
  evaluators = made.evaluators() if config.search.proxy.workers else None
  workdirs.claim(path, config, free=section.FREE)
  study = settings.open_study(config, made, path, create=True)
  console = rich_console.Console()
  evaluate = evaluators[0] if evaluators and len(evaluators) == 1 else evaluators
  try:
    with training.stopping(), _Shown(console) as shown:
      running.run(
        study,
        algorithm,
        evaluate,
        made.reward,
        trials=config.search.trials,
        seed=config.seed,
        rules=made.rules,
        window=config.search.window,
        cost=config.search.cost,
        report=shown.update,
      )
  except training.Stopped:
    console.print("The search was stopped; the same command goes on.")
    raise
  finally:
    _leave(config, made, study, path, console)


def _leave(config: Any, made: Any, study: Any, path: pathlib.Path, console: Any) -> None:
  """Writes what there is so far, and says where."""
  from effnets.search import report

  records = [r for r in study.records() if not r.open]
  if not records:
    return
  content = report.write(
    path,
    made.space,
    records,
    title=f"{config.search.algorithm.name} in {made.space.name}",
    gain=config.search.reward.accuracy,
    cost=config.search.cost,
    top=config.search.top,
  )
  console.print(_table(content, config))
  console.print(
    f"{path / report.PAGE} shows all of it. To train the best one in full: "
    f"--config=configs/retrain.py{_retrained(made.space.name)} --config.arch={path / report.BEST}",
    soft_wrap=True,
  )


def _retrained(space: str) -> str:
  """Returns the argument of `configs/retrain.py` for networks of a space.

  >>> _retrained("spinenet_tiny"), _retrained("mnas")
  (':spinenet', '')
  """
  kind = space.removesuffix("_tiny").removesuffix("_growing")
  return f":{kind}" if kind in ("assemblenet", "mnasfpn", "spinenet") else ""


def _table(content: dict[str, Any], config: Any) -> table.Table:
  cost, gain = config.search.cost, config.search.reward.accuracy
  shown = table.Table(
    title=f"{content['trials']} trials, {content['trained']} trained",
    title_justify="left",
    box=None,
    header_style="bold",
  )
  for column in ("trial", "reward", gain, cost, "params"):
    shown.add_column(column, justify="right")
  for row in content["top"]:
    values = row["values"]
    shown.add_row(
      str(row["trial"]),
      f"{row['reward']:.4f}",
      *(_number(values.get(name)) for name in (gain, cost, "params")),
    )
  return shown


def _number(value: Any) -> str:
  if value is None:
    return ""
  return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.0f}"


def worker(config: Any, workdir: str) -> None:
  """Evaluates what the search of `config` queues, until that ends.

  Raises: UserError if there is no such study, or it is one of another config or code.
  """
  from effnets.search import running, settings

  made = settings.create(config, workdir)
  study = settings.open_study(config, made, workdir, create=False)
  evaluate = made.evaluators()[0]
  console = rich_console.Console()

  def told(record: Any) -> None:
    what = record.error or f"reward {record.reward:.4f}"
    line = f"worker: trial {record.number}, {record.state}, {what}, {record.seconds:.1f} s"
    console.print(line, soft_wrap=True, highlight=False, markup=False)

  count = 0
  try:
    with training.stopping():
      count = running.work(study, evaluate, made.reward, seed=config.seed, report=told)
  except training.Stopped:
    console.print("The worker was stopped; its trial goes to another.")
    return
  console.print(f"The search has ended, or is silent; {count} trials were evaluated here.")


class _Shown:
  """The progress of a search: a line that changes on a terminal, else a line now and then."""

  def __init__(self, console: rich_console.Console):
    self._console = console
    self._live = live.Live(console=console, auto_refresh=False) if console.is_terminal else None
    self._last = float("-inf")
    self._line = ""

  def __enter__(self) -> "_Shown":
    if self._live is not None:
      self._live.start()
    return self

  def __exit__(self, *exception: object) -> None:
    if self._live is not None:
      self._live.stop()

  def update(self, progress: Any) -> None:
    """Shows how far the search is."""
    line = progress_line(progress)
    if self._live is not None:
      self._live.update(text.Text(line), refresh=True)
    elif time.monotonic() - self._last >= _LINE_SECONDS or progress.told == progress.trials:
      self._last = time.monotonic()
      self._console.print(line, soft_wrap=True, highlight=False, markup=False)
      sys.stdout.flush()


def progress_line(progress: Any) -> str:
  """Returns one line: trial, reward, best, entropy, duplicates, failures, time left."""
  record, best = progress.record, progress.best
  reward = f"reward {record.reward:.4f}" if record.reward is not None else f"{record.state}"
  parts = [f"search: trial {progress.told}/{progress.trials}", reward]
  if best is not None:
    parts.append(f"best {best.reward:.4f} (trial {best.number})")
  parts += [f"{n} {progress.summary[n]:.2f}" for n in _SHOWN if n in progress.summary]
  parts.append(f"{progress.duplicates} duplicates")
  if progress.infeasible:
    parts.append(f"{progress.infeasible} infeasible")
  parts.append(f"{progress.failures} failures")
  seconds = round(progress.seconds_left)
  parts.append(f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left")
  return ", ".join(parts)
