"""Any TensorFlow Datasets name as a source, without TensorFlow.

The data set must lie prepared on disk in a random-access format (ArrayRecord); preparing it takes
TensorFlow (the `[tf]` extra) once. Images are decoded by `decode.image`, not by TFDS, whose result
depends on whether OpenCV happens to be installed.

Options: `data_dir` (default: TFDS's own, `~/tensorflow_datasets` or TFDS_DATA_DIR), `image` and
`label`: names of the features (default: `image`, `label`).

A set with a feature `objects`, such as `coco/2017` and `voc/2012`, gives scenes (see `scenes`)
without masks. Difficult objects of VOC count as crowds: no training target, and no mistake where
they are found or missed. Option `sparse` as in `coco`, for COCO only. Boxes are clipped to the
picture, those without an area skipped and counted in `notes`.

A set of films and no pictures, such as `ucf101` and `bair_robot_pushing_small`: see `tfds_films`.
"""

import contextlib
import functools
import importlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from effnets import errors
from effnets.data import coco, coco_files, decode, sources, tfds_films


class Tfds:
  """One split of a TFDS data set; images of variable size unless all have one square shape."""

  def __init__(self, builder, split: str, *, image: str = "image", label: str = "label"):
    """Opens `split` (slices such as `train[:90%]` too) of a prepared `builder`."""
    features = builder.info.features
    self.name = f"{builder.info.full_name}/{split}"
    self._name_classes(features, label)
    height, width = features[image].shape[:2]
    self.image_size = height if height is not None and height == width else None
    self._image, self._label = image, label
    # What a worker process needs to open it again; readers of files do not travel.
    self._where = (str(builder.data_path), split)
    self._examples = _open(builder, split, image)

  def _name_classes(self, features, label: str) -> None:
    self.num_classes = int(features[label].num_classes)
    self.class_names: Sequence[str] = tuple(features[label].names)

  def __len__(self) -> int:
    return len(self._examples)

  def _example(self, index: int, name: str) -> dict[str, Any]:
    try:
      return self._examples[index]
    except Exception as error:  # ArrayRecord and protobuf have many words for a damaged file.
      raise sources.Unreadable(f"{name} ({type(error).__name__}: {error})") from error

  def __getitem__(self, index: int) -> sources.Example:
    name = f"{self.name} #{index}"
    example = self._example(index, name)
    return {
      "image": decode.image(example[self._image], name),
      "label": np.int32(example[self._label]),
    }

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != "_examples"}

  def __setstate__(self, state):
    import tensorflow_datasets as library

    self.__dict__.update(state)
    path, split = self._where
    self._examples = _open(library.builder_from_directory(path), split, self._image)


class TfdsScenes(Tfds):
  """One split of a TFDS data set with objects; see `scenes`. notes, category_ids: as in `coco`."""

  def __init__(self, builder, split: str, *, image: str = "image", sparse: bool = False):
    """Opens `split` of a prepared `builder`; sparse: classes are COCO's ids less one."""
    self._sparse, self.notes = sparse, coco.Notes()
    super().__init__(builder, split, image=image, label="objects")

  def _name_classes(self, features, label: str) -> None:
    feature = features[label].feature["label"]
    names, ids = tuple(feature.names), range(1, int(feature.num_classes) + 1)
    if names == coco_files.NAMES:
      ids = coco_files.IDS
    if self._sparse:
      by_id = dict(zip(ids, names, strict=True))
      names = tuple(by_id.get(i, "") for i in range(1, max(ids) + 1))
      ids = tuple(i if i in by_id else 0 for i in range(1, max(ids) + 1))
    self.class_names, self.category_ids, self.num_classes = names, tuple(ids), len(names)

  @functools.cached_property
  def image_ids(self) -> np.ndarray:
    """The set's own ids of pictures, int64 (n,), or 1, 2, … if it has none."""
    ids = np.arange(1, len(self) + 1, dtype=np.int64)
    for i in range(len(self)):
      example = self._example(i, f"{self.name} #{i}")
      if "image/id" not in example:
        break
      ids[i] = example["image/id"]
    return ids

  def truth(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns the COCO data set of some examples, all by default, as evaluation wants it."""
    return coco_files.described(self, range(len(self)) if indices is None else indices)

  def __getitem__(self, index: int) -> sources.Example:
    """Returns a scene; its `area` is the data set's own, where it has one."""
    name = f"{self.name} #{index}"
    example = self._example(index, name)
    pixels = decode.image(example[self._image], name)
    objects = example["objects"]
    sides = np.tile(pixels.shape[:2], 2)
    boxes = np.asarray(objects["bbox"], np.float64).reshape(-1, 4) * sides
    boxes = np.clip(boxes, 0, sides).astype(np.float32)
    real = np.all(boxes[:, 2:] > boxes[:, :2], 1)
    for row in np.flatnonzero(~real):
      self.notes.add("zero area", f"{name}, object {row}")
    classes = np.asarray(objects["label"], np.int32)[real]
    if self._sparse:
      classes = np.flatnonzero(self.category_ids)[classes].astype(np.int32)
    crowd = objects.get("is_crowd", objects.get("is_difficult", np.zeros(len(real), bool)))
    scene = {
      "image": pixels,
      "label": np.int32(-1),
      "name": name,
      "boxes": boxes[real],
      "classes": classes,
      "crowd": np.asarray(crowd, bool)[real],
    }
    if "area" in objects:
      scene["area"] = np.asarray(objects["area"], np.float64)[real]
    return scene


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> "Tfds | tfds_films.TfdsFilms":
  """Returns one split of the TFDS data set `argument`, such as `cifar10` or `cifar10:3.0.2`.

  Raises: errors.UserError if there is no such data set, split or feature, or it is not prepared.
  """
  allowed = {"data_dir", "image", "label", "sparse", *tfds_films.OPTIONS}
  sources.check_options(options, allowed, kind="a TFDS data set", key=key)
  data_dir = options.get("data_dir")
  builder = _builder(argument, data_dir, key)
  if not builder.info.splits:
    raise errors.UserError(
      f"{key}.source={argument!r} is not prepared in {builder.data_path}. "
      + _how(argument, data_dir)
    )
  features = builder.info.features
  if "image" not in features and "image" not in options and tfds_films.films(features):
    names = tfds_films.chosen(features, options, argument=argument, key=key)
    made = functools.partial(tfds_films.TfdsFilms, **names)
    return _opened(made, builder, split, argument, data_dir, key, split_key)
  image, label = options.get("image", "image"), options.get("label", "label")
  objects = "objects" in features and "label" not in options
  wanted = {"image": image} if objects else {"image": image, "label": label}
  for option, feature in wanted.items():
    if feature not in features:
      raise errors.unknown(
        f"{key}.options.{option}", feature, f"a feature of {argument}", list(features)
      )
  if not objects and not hasattr(features[label], "num_classes"):
    raise errors.UserError(
      f"{key}.options.label={label!r} of {argument} is no class label but {features[label]!r}."
    )
  made = functools.partial(Tfds, image=image, label=label)
  if objects:
    made = functools.partial(TfdsScenes, image=image, sparse=options.get("sparse", False))
  return _opened(made, builder, split, argument, data_dir, key, split_key)


def _opened(
  made: Callable[..., Any],
  builder: Any,
  split: str,
  argument: str,
  data_dir: str | None,
  key: str,
  split_key: str,
) -> Any:
  """Returns `made(builder, split)`. Raises: errors.UserError if there is no such split."""
  try:
    return made(builder, split)
  except NotImplementedError as error:
    raise errors.UserError(
      f"{key}.source={argument!r} is prepared in {builder.data_path}, but as "
      f"{builder.info.file_format.value}, which has no random access. {_how(argument, data_dir)}"
    ) from error
  except (ValueError, KeyError) as error:
    raise errors.unknown(
      split_key, split, f"a split of {argument}", list(builder.info.splits)
    ) from error


def examples(argument: str, split: str, *, data_dir: str | None, key: str) -> tuple[Any, Any]:
  """Returns (features, random access to the examples) of a split of a data set without images.

  Raises: errors.UserError if there is no such data set or split, or it is not prepared.
  """
  builder = _builder(argument, data_dir, key)
  if not builder.info.splits:
    raise errors.UserError(
      f"{key}.source: {argument} is not prepared in {builder.data_path}. {_how(argument, data_dir)}"
    )
  try:
    return builder.info.features, builder.as_data_source(split)
  except NotImplementedError as error:
    raise errors.UserError(
      f"{key}.source: {argument} is prepared in {builder.data_path}, but as "
      f"{builder.info.file_format.value}, which has no random access. {_how(argument, data_dir)}"
    ) from error
  except (ValueError, KeyError) as error:
    raise errors.unknown(
      f"{key}.split", split, f"a split of {argument}", list(builder.info.splits)
    ) from error


def _builder(argument: str, data_dir: str | None, key: str):
  """Returns TFDS's builder of a data set.

  Raises: errors.UserError if there is no such data set, or TFDS cannot open it.
  """
  import tensorflow_datasets as library

  try:
    # TFDS prints a banner when it looks, in vain, for a TensorFlow.
    with contextlib.redirect_stdout(io.StringIO()):
      builder = library.builder(argument, data_dir=data_dir, try_gcs=False)
  except Exception as error:
    base = argument.split("/")[0].split(":")[0]
    # Community data sets are left out: listing them asks the network, and needs TensorFlow.
    known = library.list_builders(with_community_datasets=False)
    if base not in known:
      raise errors.unknown(
        f"{key}.source",
        argument,
        "a data set",
        [*known, *sources.kinds()],
        where=f"{', '.join(sources.kinds())}, and "
        "https://www.tensorflow.org/datasets/catalog/overview",
      ) from error
    raise errors.UserError(
      f"{key}.source={argument!r}: TFDS cannot open it ({type(error).__name__}: {error})."
    ) from error
  return builder


def prepare(
  name: str,
  data_dir: str,
  *,
  shards: int | None = None,
  manual_dir: str | None = None,
  key: str = "config.data",
) -> dict[str, int]:
  """Downloads a data set and writes it as ArrayRecord; returns the examples in each split.

  One that is there already is left as it is. Takes TensorFlow.

  Args:
    name: TFDS's. data_dir: the folder that `options.data_dir` will name.
    shards: number of files for each split, None: TFDS's choice. manual_dir: where files lie that
      the licence allows nobody to download for others, such as ImageNet's archives; default:
      `DATA_DIR/downloads/manual`. key: for messages.
  Raises:
    errors.UserError if there is no such data set, TensorFlow is not installed, the download fails,
    or the data set is there in another format.
  """
  import tensorflow_datasets as library

  builder = _builder(name, data_dir, key)
  try:
    importlib.import_module("tensorflow")
  except ImportError as error:
    raise errors.UserError(
      f"{key}.source={name!r}: TFDS prepares data sets with TensorFlow, which is not installed: "
      "`pip install 'effnets[tf]'`. Reading them takes none."
    ) from error
  config = library.download.DownloadConfig(manual_dir=manual_dir, num_shards=shards)
  try:
    with contextlib.redirect_stdout(sys.stderr):  # where progress belongs
      builder.download_and_prepare(file_format="array_record", download_config=config)
  except Exception as error:  # of the network, of checksums, of missing archives, of the disk
    reason = " ".join(str(error).split()) or type(error).__name__
    raise errors.UserError(f"{key}.source={name!r} cannot be prepared: {reason}") from error
  found = builder.info.file_format.value
  if found != "array_record":
    raise errors.UserError(
      f"{key}.source={name!r} lies in {builder.data_path} already, as {found}; delete it there, or "
      "give another folder."
    )
  return {split: int(info.num_examples) for split, info in builder.info.splits.items()}


def _how(name: str, data_dir: str | None) -> str:
  data_dir = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  return (
    "Prepare it once with TensorFlow (pip install 'effnets[tf]'): "
    f"`python -m effnets.prepare {name} {data_dir}`."
  )


def _open(builder, split: str, image: str):
  import tensorflow_datasets as library

  return builder.as_data_source(split, decoders={image: library.decode.SkipDecoding()})
