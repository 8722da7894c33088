"""The folder of a run: whose it is, and whether a config may go on in it."""

import contextlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

import ml_collections

from effnets import configuration, errors

# What a restart of the same run may change: where and how it runs, not what it computes.
FREE_KEYS = (
  "checkpoint",
  "data.threads",
  "data.workers",
  "execution",
  "log_every_steps",
  "mesh",
  "plan",
  "processes",
  "profile",
  "sharding",
  "tensorboard",
)

# What evaluating a finished run may change beside them.
EVALUATION_KEYS = (
  "adversary.evaluated",
  "class_names",
  "data",
  "detections",
  "eval_batch_size",
  "evaluation",
  "few_shot",
  "export",
  "input",
  "pipeline.controls",
  "pipeline.labels",
  "robustness",
)

_CLASS_NAMES = "classes.txt"

# What a run leaves before there is anything to lose, and what looking at weights or at the
# augmentation leaves.
_TRACES = (
  "config.json",
  "config.tmp",
  _CLASS_NAMES,
  "evaluation.json",
  "events.jsonl",
  "few_shot.json",
  "export",
  "parameters.txt",
  "plan.json",
  "plots/augment.png",
  "plots/clips.png",
  "plots/corruptions.png",
  "plots/report.png",
  "plots/robustness.png",
  "predictions",
  "predictions.csv",
  "predictions.json",
  "report.json",
  "robustness.json",
  "tb",
)


def claim(
  workdir: str | pathlib.Path, config: ml_collections.ConfigDict, free: Iterable[str] = ()
) -> pathlib.Path:
  """Makes `workdir` this run's own, writes `config.json` into it and returns its path.

  A run of which nothing but its config is there yet may change it.

  free: keys and sections that may differ from the config there, beside `FREE_KEYS`.

  Raises: UserError if it cannot be written, holds something that is no run, or a run whose config
    computes something else.
  """
  path = pathlib.Path(workdir)
  file = path / "config.json"
  try:
    path.mkdir(parents=True, exist_ok=True)
    # Event files of a run that died before its first write are not foreign.
    others = sorted(p.name for p in path.iterdir() if not _is_trace(p))
    if others and not file.exists():
      raise errors.UserError(
        f"--workdir={path} is not empty and holds no run of effnets (no config.json; found "
        f"{', '.join(others[:3])}); give an empty or new folder."
      )
    if others:
      check_same_run(path, config, free)
    elif file.exists():
      _saved(path)
  except OSError as error:
    raise _unwritable(path, error) from error
  return write(path, "config.json", configuration.to_json(config)).parent


def write(workdir: str | pathlib.Path, name: str, text: str) -> pathlib.Path:
  """Writes a file of a workdir, which is made if need be, whole or not at all; returns its path.

  Raises: UserError if it cannot be written.
  """
  with writing(workdir, name) as file:
    file.write(text)
  return pathlib.Path(workdir) / name


@contextlib.contextmanager
def writing(
  workdir: str | pathlib.Path, name: str, *, newline: str | None = None, binary: bool = False
) -> Iterator[IO]:
  """Opens a file of a workdir, which is made if need be; it is there when the block has ended well.

  newline: of `open`. binary: whether bytes are written, not text.

  Raises: UserError if it cannot be written.
  """
  path = pathlib.Path(workdir) / name
  temporary = path.with_suffix(".tmp")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": newline}
    with open(temporary, **how) as file:
      yield file
    temporary.replace(path)
  except OSError as error:
    raise _unwritable(path.parent, error) from error
  finally:
    if temporary.is_file():
      temporary.unlink()


def _unwritable(path: pathlib.Path, error: OSError) -> errors.UserError:
  return errors.UserError(f"--workdir={path} cannot be written: {error.strerror}.")


def _is_trace(path: pathlib.Path) -> bool:
  """Returns whether nothing is lost with `path`: a run killed while compiling leaves empty ones."""
  if path.name == "checkpoints":
    return path.is_dir() and not any(path.iterdir())
  if path.name == "plots":
    return all(f"plots/{inside.name}" in _TRACES for inside in path.iterdir())
  return path.name in _TRACES or (path.name == "metrics.jsonl" and not path.stat().st_size)


def check_same_run(
  workdir: str | pathlib.Path, config: ml_collections.ConfigDict, free: Iterable[str] = ()
) -> None:
  """Checks that `workdir` holds a run of `config`.

  free: keys and sections that may differ, beside `FREE_KEYS`.

  Raises: UserError that names what differs, or says that there is no run.
  """
  path = pathlib.Path(workdir)
  old = _saved(path)
  new = configuration.flatten(json.loads(configuration.to_json(config)))
  allowed = tuple(f"{key}." for key in (*FREE_KEYS, *free))
  changed = [
    key
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not f"{key}.".startswith(allowed)
  ]
  if changed:
    shown = "; ".join(f"config.{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in changed[:4])
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    raise errors.UserError(
      f"--workdir={path} holds a run of another config ({shown}{more}); give the same config or "
      "another workdir."
    )


def saved(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the config of the run in `workdir`, unlocked.

  Raises: UserError if there is none.
  """
  path = pathlib.Path(workdir)
  _saved(path)
  config = _completed(json.loads((path / "config.json").read_text()))
  return ml_collections.ConfigDict(_tuples(config))


def _tuples(value: Any) -> Any:
  """Returns `value` with tuples for lists: JSON has none, and configs have nothing else."""
  if isinstance(value, dict):
    return {key: _tuples(inner) for key, inner in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _completed(config: dict[str, Any]) -> dict[str, Any]:
  """Returns the config of a run; one made before a setting was there has had its default."""
  defaults = json.loads(configuration.to_json(configuration.base()))
  own = configuration.task_sections(config.get("task", {}).get("name", "classification"))
  sections = {
    key: {**defaults[key], **value}
    for key, value in config.items()
    if isinstance(value, dict) and isinstance(defaults.get(key), dict) and key not in own
  }
  return {**defaults, **config, **sections}


def write_class_names(workdir: str | pathlib.Path, names: Iterable[str]) -> None:
  """Writes `classes.txt`, one name a line in the order of the labels."""
  write(workdir, _CLASS_NAMES, "".join(f"{' '.join(name.split())}\n" for name in names))


def class_names(workdir: str | pathlib.Path) -> tuple[str, ...]:
  """Returns what `write_class_names` wrote; empty if the run is not so far."""
  file = pathlib.Path(workdir) / _CLASS_NAMES
  return tuple(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else ()


def _saved(path: pathlib.Path) -> dict[str, Any]:
  """Returns the leaves of the config in a workdir."""
  file = path / "config.json"
  if not file.is_file():
    raise errors.UserError(f"--workdir={path} holds no run of effnets (no config.json).")
  try:
    config = json.loads(file.read_text())
    leaves = configuration.flatten(config)
  except (OSError, ValueError, TypeError) as error:
    raise errors.UserError(
      f"--workdir={path}: its config.json cannot be read ({error}); it is no run of effnets."
    ) from error
  if not {"task.name", "batch_size", "seed"} <= leaves.keys():
    raise errors.UserError(f"--workdir={path}: its config.json is none of effnets.")
  return configuration.flatten(_completed(config))
