"""Charades as a source: `charades:PATH`, films of 30 seconds, of several of 157 classes each.

PATH holds Charades_v1_train.csv, Charades_v1_test.csv (or in a folder Charades) and the films,
ID.mp4 in Charades_v1_480 or Charades_v1. Their column `actions` says when what happens, in seconds:
`c092 11.90 21.20;c147 0.00 12.60`. `validation` is the test split, as the papers have it.

Options: `videos`, `annotations`: other folders; `flow`: see `videos`. Films that are listed but not
there are named and counted like broken ones; if none is there, that is an error.
"""

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from effnets import errors
from effnets.data import clips, sources, videos

CLASSES = 157
_FILES = {"train": "train", "validation": "test", "test": "test"}
_OPTIONS = ("annotations", "flow", "videos")

Action = tuple[int, float, float]


class Charades(videos.Videos):
  """One split. actions: of every film, (class, start, end) in seconds."""

  targets = True

  def __init__(self, name: str, paths: list[str], actions: list[tuple[Action, ...]], **more: Any):
    """Holds paths and actions of the films."""
    names = [f"c{number:03d}" for number in range(CLASSES)]
    super().__init__(name, paths, np.full(len(paths), -1, np.int32), names, **more)
    self.actions = actions

  def __getitem__(self, index: int) -> sources.Example:
    found = super().__getitem__(index)
    targets = np.zeros(CLASSES, np.float32)
    targets[[label for label, _, _ in self.actions[index]]] = 1
    return {**found, "targets": targets, "actions": self.actions[index]}


def read(path: pathlib.Path, *, key: str = "config.data") -> dict[str, tuple[Action, ...]]:
  """Returns the actions of every film in an official file, by its id.

  Raises: UserError with file and line if it is none.
  """
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UserError(f"{key}.source: {path} cannot be read: {error}.") from error
  rows = csv.DictReader(text.splitlines())
  missing = {"id", "actions"} - set(rows.fieldnames or ())
  if missing:
    raise errors.UserError(f"{key}.source: {path} lacks the column {sorted(missing)[0]!r}.")
  found = {}
  for row in rows:
    actions = []
    for part in filter(None, (row["actions"] or "").split(";")):
      try:
        name, start, end = part.split()
        label = int(name.removeprefix("c"))
        if not name.startswith("c") or not 0 <= label < CLASSES:
          raise ValueError(name)
        actions.append((label, float(start), float(end)))
      except ValueError as error:
        raise errors.UserError(
          f"{key}.source: {path}, line {rows.line_num}: the action {part!r} should be such as "
          f"'c092 11.90 21.20', of c000 to c{CLASSES - 1}."
        ) from error
    found[row["id"]] = tuple(actions)
  if not found:
    raise errors.UserError(f"{key}.source: {path} lists no films.")
  return found


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Charades:
  """Returns one split; see the module's docstring.

  Raises: errors.UserError if a file or folder is missing or damaged, or no film is there.
  """
  sources.check_options(options, _OPTIONS, kind="charades", key=key)
  if split not in _FILES:
    raise errors.unknown(split_key, split, "a split of Charades", _FILES)
  root = pathlib.Path(argument).expanduser()
  lists = [root / options["annotations"]] if options.get("annotations") else [root]
  lists = [p / f"Charades_v1_{_FILES[split]}.csv" for p in (*lists, root / "Charades")]
  there = [path for path in lists if path.is_file()]
  if not there:
    raise errors.UserError(f"{key}.source='charades:{argument}': there is no {lists[0]}.")
  given = options.get("videos", "")
  folders = [root / given] if given else [root / "Charades_v1_480", root / "Charades_v1", root]
  parent = next((path for path in folders if path.is_dir()), folders[0])
  actions = read(there[0], key=key)
  paths = [_path(parent, name) for name in actions]
  if not any(pathlib.Path(path).exists() for path in paths):
    raise errors.UserError(
      f"{key}.source='charades:{argument}': none of the {len(paths)} films that {there[0]} lists "
      f"is in {parent.absolute()}, such as {pathlib.Path(paths[0]).name}."
    )
  if any(path.endswith(".mp4") for path in paths):
    clips.cv2("reading videos")
  flow = videos.flow_files(options.get("flow", ""), parent, paths, key=key)
  return Charades(f"charades/{split}", paths, list(actions.values()), root=parent, flow=flow)


def _path(parent: pathlib.Path, name: str) -> str:
  """Returns a film's file, or the folder of its pictures if there is one."""
  pictures = parent / name
  return str(pictures if pictures.is_dir() else parent / f"{name}.mp4")
