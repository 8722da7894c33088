"""What a data source is, and how a name in a config becomes one.

A source is random access: it has a length and gives example number `i`, a dict of NumPy arrays, the
same one every time and in every process. Order, augmentation and batching are not its business.

  digits          the embedded handwritten digits (`digits.py`)
  cluttered_digits  one of them among fragments of others (`cluttered_digits.py`)
  folder:PATH     a folder of images, one sub-folder per class (`folder.py`)
  pictures:PATH   pictures without labels, all below a folder (`pictures.py`)
  records:PATH    ArrayRecord data sets that `records.write` or `shards.write` made (`records.py`)
  digit_actions   films of moving digits (`digit_actions.py`)
  moving_digits   films of digits that bounce at random (`moving_digits.py`)
  digit_scenes    several digits on a canvas, with boxes and masks (`digit_scenes.py`)
  coco:PATH       a COCO folder of pictures with boxes and masks (`coco.py`, `scenes.py`)
  segmentation:PATH  pictures with a class for each pixel (`segmentation.py`)
  toy_glue        embedded sentence tasks in GLUE's formats (`toy_glue.py`, `texts.py`)
  glue:PATH       the folder of GLUE's download, several tasks at once (`texts.py`, `glue.py`);
                  `glue:tfds` takes them from TFDS (`tfds_glue.py`)
  videos:PATH     a folder of films, one sub-folder per class (`videos.py`)
  frames:PATH     a folder of films to predict (`frames.py`)
  human36m:PATH   Human3.6M's films or their frames (`human36m.py`)
  kitti:PATH      KITTI's raw recordings (`kitti.py`)
  robot:PATH      TFRecords of robots with their actions (`robot.py`)
  charades:PATH   Charades, films of several classes (`charades.py`)
  corrupted:NAME  one of these, its pictures corrupted (`corrupted.py`)
  NAME            any TensorFlow Datasets name prepared as ArrayRecord, also `tfds:NAME` (`tfds.py`,
                  of films `tfds_films.py`)
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from effnets import errors

Example = dict[str, np.ndarray]

# Modules are imported when first asked for: TFDS takes seconds that a run on `digits` need not pay.
_KINDS = {
  "cluttered_digits": "effnets.data.cluttered_digits",
  "coco": "effnets.data.coco",
  "charades": "effnets.data.charades",
  "corrupted": "effnets.data.corrupted",
  "digit_actions": "effnets.data.digit_actions",
  "digit_scenes": "effnets.data.digit_scenes",
  "digits": "effnets.data.digits",
  "folder": "effnets.data.folder",
  "frames": "effnets.data.frames",
  "glue": "effnets.data.texts",
  "human36m": "effnets.data.human36m",
  "kitti": "effnets.data.kitti",
  "moving_digits": "effnets.data.moving_digits",
  "pictures": "effnets.data.pictures",
  "records": "effnets.data.records",
  "robot": "effnets.data.robot",
  "segmentation": "effnets.data.segmentation",
  "tfds": "effnets.data.tfds",
  "toy_glue": "effnets.data.texts",
  "videos": "effnets.data.videos",
}
# Kinds whose name is followed by `:` and a path or a name.
_WITH_ARGUMENT = (
  "charades",
  "coco",
  "corrupted",
  "folder",
  "frames",
  "glue",
  "human36m",
  "kitti",
  "pictures",
  "records",
  "robot",
  "segmentation",
  "tfds",
  "videos",
)


class Unreadable(Exception):
  """One example cannot be read or decoded; its text is the example's name and the reason.

  Streams put another example in its place; any other exception is a mistake and stops the run.
  """


@runtime_checkable
class Source(Protocol):
  """Random access to examples.

  name: what it is, for messages. num_classes: classes of `label`. class_names: their names.
  image_size: side of the square images it gives, or None if their sizes differ.

  `source[i]`, i in [0, len): image uint8 (h, w, 3); label int32 scalar, -1 if hidden; and where
  there are soft labels, probabilities float32 (k,). Raises `Unreadable` for a broken example.

  A source of anything but images says so by `inputs`, see there, has image_size None, and gives
  `blank()`, an example without content that shows the shapes of those fields. It may weigh its
  examples by a field `weight`, and bring an order of its own, see `stream.ordered`.
  """

  name: str
  num_classes: int
  class_names: Sequence[str]
  image_size: int | None

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


def inputs(source: Any) -> tuple[str, ...]:
  """Returns which fields of its examples a batch holds beside the label: its `inputs`, or image."""
  return tuple(getattr(source, "inputs", ("image",)))


def blank(source: Any) -> Example:
  """Returns an example without content: the source's own `blank`, or a black picture."""
  own = getattr(source, "blank", None)
  if own is not None:
    return {"label": np.int32(0), **own()}
  side = source.image_size or 64
  return {"image": np.zeros((side, side, 3), np.uint8), "label": np.int32(0)}


def open_source(
  name: str,
  split: str,
  *,
  options: Mapping[str, Any] | None = None,
  key: str = "config.data",
  split_key: str = "",
) -> Source:
  """Returns the source that a config names.

  Args:
    name: one of the above.
    split: `train`, `validation`, `test`, …; what each kind offers is in its module.
    options: settings of the kind, such as `labels` for `digits` or `data_dir` for TFDS.
    key: where the settings stand in the config, for messages. split_key: where the split does, if
      it is not `KEY.split`.
  Raises: errors.UserError if the name, the split, an option or what lies on disk is wrong.
  """
  kind, _, argument = name.partition(":")
  if kind != "tfds" and is_tfds(name):
    kind, argument = "tfds", name
  elif kind in _WITH_ARGUMENT and not argument:
    what = {"tfds": "a data set's name", "corrupted": "a source"}.get(kind, "a path")
    raise errors.UserError(f"{key}.source={name!r} lacks {what}; write '{kind}:…'.")
  module = importlib.import_module(_KINDS[kind])
  return module.open_split(
    argument,
    split,
    options=dict(options or {}),
    key=key,
    split_key=split_key or f"{key}.split",
  )


def is_tfds(name: str) -> bool:
  """Returns whether a source's name is that of a TFDS data set."""
  kind, colon, _ = name.partition(":")
  return kind == "tfds" or kind not in _KINDS or bool(colon and kind not in _WITH_ARGUMENT)


def kinds() -> list[str]:
  """Returns the names that `open_source` knows by itself, as they are written in a config."""
  return [f"{kind}:…" if kind in _WITH_ARGUMENT else kind for kind in _KINDS]


def check_options(
  options: Mapping[str, Any], allowed: Iterable[str], *, kind: str, key: str
) -> None:
  """Raises errors.UserError if `options` has a name that this kind of source does not know."""
  for name in options:
    if name not in allowed:
      allowed = sorted(allowed)
      if not allowed:
        raise errors.UserError(f"{key}.options={name!r}: {kind} takes no options.")
      raise errors.unknown(f"{key}.options", name, f"an option of {kind}", allowed)


def whole_options(
  options: Mapping[str, Any], ranges: Mapping[str, tuple[int, int, int]], *, most: int, key: str
) -> dict[str, int]:
  """Returns whole-numbered options of a source.

  ranges: lowest, highest and default, which is `most` if it is below the lowest.

  Raises: errors.UserError for a value outside its range.
  """
  values = {}
  for name, (low, high, default) in ranges.items():
    default = default if default >= low else most
    value = values[name] = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
      raise errors.UserError(
        f"{key}.options.{name}={value!r} must be a whole number from {low} to {high}; "
        f"default: {default}."
      )
  return values
