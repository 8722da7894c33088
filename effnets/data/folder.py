"""A folder of images as a source: `folder:PATH`.

Either PATH/SPLIT/CLASS/IMAGE or, without splits, PATH/CLASS/IMAGE (then the only split is `all`;
`train` means the same). Classes are the sorted names of the class folders, over all of the usual
splits that exist, so that a class missing in one split shifts no label. Images are sorted by class,
then by name. Suffixes: jpg, jpeg, png, bmp, webp.

Option `hold_out`, for a folder without splits: percent of each class that is `validation`, and as
much again `test`, at least one picture each; `train` is the rest. Which pictures those are depends
on their names alone, so a picture that comes later moves few others. Where there are split folders
it has no effect.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from effnets import errors, streams
from effnets.data import decode, sources

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_SPLITS = ("train", "validation", "val", "test")


class Folder:
  """Images in class folders; they are decoded when asked for.

  paths: the files, in order. labels: theirs, int32 (n,).
  """

  image_size = None

  def __init__(self, name: str, paths: list[str], labels: np.ndarray, class_names: tuple[str, ...]):
    """Holds file paths, their labels int32 (n,) and the class names."""
    self.name = name
    self.paths = paths
    self.class_names = class_names
    self.num_classes = len(class_names)
    self.labels = labels

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> sources.Example:
    return {
      "image": decode.image(self.encoded(index), self.paths[index]),
      "label": self.labels[index],
    }

  def encoded(self, index: int) -> bytes:
    """Returns the bytes of a file.

    Raises: sources.Unreadable.
    """
    path = self.paths[index]
    try:
      return pathlib.Path(path).read_bytes()
    except OSError as error:
      raise sources.Unreadable(f"{path} ({error.strerror})") from error


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Folder:
  """Returns one split of the folder `argument`; see the module's docstring.

  Raises: errors.UserError if the path or split is missing, there are no images or one class, or too
    few of a class to hold some out.
  """
  sources.check_options(options, ("hold_out",), kind="a folder", key=key)
  hold_out = options.get("hold_out") or 0
  if isinstance(hold_out, bool) or not isinstance(hold_out, int | float) or not 0 <= hold_out < 50:
    raise errors.UserError(
      f"{key}.options.hold_out={hold_out!r} should be a percentage of at least 0 and below 50."
    )
  root, inner = _opened(argument, key)
  flat = any(_images(path) for path in inner.values())
  if flat:
    known = ("all", "train", *(("validation", "test") if hold_out else ()))
    if split not in known:
      what = f"a split of {root}, which has no split folders"
      hint = "" if hold_out else f" To cut some off: --{key}.options.hold_out=15, in percent."
      raise errors.UserError(f"{errors.unknown(split_key, split, what, known)}{hint}")
    parent, classes = root, sorted(inner)
  else:
    if split not in inner:
      raise errors.unknown(split_key, split, f"a folder in {root}", inner)
    parent = inner[split]
    together = {split, *(s for s in _SPLITS if s in inner)}
    classes = sorted({name for s in together for name in _folders(inner[s])})
  paths, labels = [], []
  for label, name in enumerate(classes):
    found = _images(parent / name)
    if flat and hold_out and split != "all":
      found = _part(found, split, hold_out, key)
    paths += found
    labels += [label] * len(found)
  if not paths:
    raise errors.UserError(
      f"{key}.source='folder:{argument}', split={split!r}: no images in {parent.absolute()}; "
      f"expected CLASS/IMAGE with one of {', '.join(_SUFFIXES)}."
    )
  if len(classes) < 2:
    raise errors.UserError(
      f"{key}.source='folder:{argument}', split={split!r}: one class only ({classes[0]!r}); "
      "expected one folder per class, at least two."
    )
  name = f"folder:{argument}/{split}"
  return Folder(name, paths, np.array(labels, np.int32), tuple(classes))


def _part(paths: list[str], split: str, hold_out: float, key: str) -> list[str]:
  """Returns what of one class's pictures belongs to `split`, in their order."""
  count = max(1, round(len(paths) * hold_out / 100))
  if paths and len(paths) <= 2 * count:
    raise errors.UserError(
      f"{key}.options.hold_out={hold_out!r}: {pathlib.Path(paths[0]).parent} holds {len(paths)} "
      f"picture(s), too few for training, validation and test."
    )
  shuffled = sorted(paths, key=lambda path: (streams.name_hash(pathlib.Path(path).name), path))
  parts = {"test": shuffled[:count], "validation": shuffled[count : 2 * count]}
  chosen = set(parts.get(split, shuffled[2 * count :]))
  return [path for path in paths if path in chosen]


def splits(argument: str, *, key: str) -> list[str]:
  """Returns the splits of the folder `argument`; of one without splits it is `train`.

  Raises: errors.UserError if it does not exist, or holds no folders.
  """
  root, inner = _opened(argument, key)
  if not inner:
    raise errors.UserError(
      f"{key}.source='folder:{argument}': no folders in {root.absolute()}; expected "
      "PATH/SPLIT/CLASS/*.jpg or PATH/CLASS/*.jpg."
    )
  return ["train"] if any(_images(path) for path in inner.values()) else list(inner)


def _opened(argument: str, key: str) -> tuple[pathlib.Path, dict[str, pathlib.Path]]:
  """Returns the folder and the folders in it by name, sorted."""
  root = pathlib.Path(argument).expanduser()
  if not root.is_dir():
    raise errors.UserError(
      f"{key}.source='folder:{argument}': there is no folder {root.absolute()}; "
      "expected PATH/SPLIT/CLASS/*.jpg or PATH/CLASS/*.jpg."
    )
  return root, {name: root / name for name in _folders(root)}


def pictures(path: str, *, key: str) -> Folder:
  """Returns the picture `path`, or all in the folder `path` and below it, without labels (-1).

  key: what messages call `path`.

  Raises: errors.UserError if there is none, or the only one cannot be read.
  """
  root = pathlib.Path(path).expanduser()
  if root.is_dir():
    folders = [root, *sorted(p for p in root.rglob("*") if p.is_dir())]
    paths = [file for folder in folders for file in _images(folder)]
    if not paths:
      raise errors.UserError(
        f"{key}={path!r}: no pictures in this folder; they end in {', '.join(_SUFFIXES)}."
      )
  elif root.exists():
    paths = [str(root)]
  else:
    raise errors.UserError(f"{key}={path!r} does not exist; give a picture or a folder of them.")
  found = Folder(path, paths, np.full(len(paths), -1, np.int32), ())
  if len(paths) == 1:
    try:
      found[0]
    except sources.Unreadable as error:
      raise errors.UserError(f"{key}={path!r} is no picture that can be read: {error}.") from error
  return found


def below(path: str, *names: str) -> pathlib.Path | None:
  """Returns the folder PATH/NAMES…, or PATH/*/NAMES…, or None if there is none.

  Published sets group what they hold, and are unpacked with and without the group's folder.
  """
  root = pathlib.Path(path).expanduser()
  for parent in (root, *(root / name for name in _folders(root))):
    found = parent.joinpath(*names)
    if found.is_dir():
      return found
  return None


def labelled(
  path: pathlib.Path, suffixes: tuple[str, ...] = _SUFFIXES
) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
  """Returns the files PATH/CLASS/FILE, sorted, the number of each one's class, and all classes."""
  classes = _folders(path)
  files = [_files(path / name, suffixes) for name in classes]
  labels = np.repeat(np.arange(len(classes), dtype=np.int32), list(map(len, files)))
  return [file for of_class in files for file in of_class], labels, tuple(classes)


def _folders(path: pathlib.Path) -> list[str]:
  with os.scandir(path) as entries:
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _images(path: pathlib.Path) -> list[str]:
  return _files(path, _SUFFIXES)


def _files(path: pathlib.Path, suffixes: tuple[str, ...]) -> list[str]:
  if not path.is_dir():
    return []
  with os.scandir(path) as entries:
    names = [e.name for e in entries if e.name.lower().endswith(suffixes)]
  return [str(path / name) for name in sorted(names) if not name.startswith(".")]
