"""Films of TensorFlow Datasets, without TensorFlow: examples whose frames are encoded pictures.

Read are features of the kind `Video`, or sequences of pictures, such as `ucf101`, `moving_mnist`
and `bair_robot_pushing_small`. Options beside `data_dir`:

  video    name of the feature with the frames; by default the first; of a robot's cameras
           image_aux1 comes before image_main
  action   name of a feature with numbers for each frame, for networks that take actions; by default
           `action` or `actions`, where there is one
  label    name of the feature with the class, or with several classes; by default `label` or
           `labels`, where there is one; without, all films are of one class
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from effnets import errors
from effnets.data import clips, decode, robot, sources, tfrecord, videos

OPTIONS = ("video", "action", "label", "data_dir")


class Film:
  """A film of encoded pictures, as a `clips.Film`. What does not say its rate has 25 a second."""

  rate = 25.0

  def __init__(self, name: str, pictures: Sequence[bytes]):
    """Holds the pictures, each of which is decoded when it is asked for."""
    self.name, self.frames, self._pictures = name, len(pictures), pictures

  def read(self, numbers: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns frames. Raises: sources.Unreadable."""
    shown = [
      decode.image(self._pictures[int(number)], f"{self.name}, frame {number}")
      for number in numbers
    ]
    return videos.stacked(shown, self.name)


class Acted(Film):
  """A film with actions, one for each frame or for each but the last, which leads nowhere."""

  def __init__(self, name: str, pictures: Sequence[bytes], actions: Float[np.ndarray, "t a"]):
    super().__init__(name, pictures)
    self._actions = actions

  def actions(self, numbers: Sequence[int]) -> Float[np.ndarray, "t a"]:
    """Returns the actions at those frames; zeros where only the last is missing.

    Raises: sources.Unreadable.
    """
    known = self._actions
    if len(known) == self.frames - 1:
      known = np.concatenate([known, np.zeros_like(known[:1])])
    if len(known) != self.frames:
      raise sources.Unreadable(f"{self.name} ({len(known)} actions for {self.frames} frames)")
    return known[np.asarray(numbers)]


class TfdsFilms(clips.Films):
  """One split of a TFDS data set of films. video, action, label: features; empty for none."""

  def __init__(self, builder: Any, split: str, *, video: str, action: str = "", label: str = ""):
    """Opens `split`, slices too, of a prepared `builder`."""
    self.name = f"{builder.info.full_name}/{split}"
    self._video, self._action, self._label = video, action, label
    parts = flat(builder.info.features)
    self._width = int(np.prod(parts[action].shape[1:])) if action else 0
    self.class_names: Sequence[str] = ("film",)
    if label:
      named = _classes(parts[label])
      self.targets, self.class_names = named is not parts[label], tuple(named.names)
    self.num_classes = len(self.class_names)
    # What a worker process needs to open it again; readers of files do not travel.
    self._where = (str(builder.data_path), split)
    self._records = _records(builder, split)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> sources.Example:
    name = f"{self.name} #{index}"
    try:
      record = bytes(self._records[index])
    except IndexError:
      raise
    except Exception as error:  # ArrayRecord has many words for a damaged file
      raise sources.Unreadable(f"{name} ({type(error).__name__}: {error})") from error
    features = tfrecord.example(record, name)
    pictures = features.get(self._video)
    if not isinstance(pictures, list):
      raise sources.Unreadable(f"{name} (no pictures in its feature {self._video})")
    film: Film = Film(name, pictures)
    if self._action:
      numbers = features.get(self._action)
      if not isinstance(numbers, np.ndarray) or len(numbers) % self._width:
        raise sources.Unreadable(f"{name} (its actions are not of {self._width} numbers each)")
      actions = numbers.reshape(-1, self._width).astype(np.float32)
      film = Acted(name, pictures, actions)
    found: dict[str, Any] = {"film": film, "label": np.int32(0)}
    if self._label:
      found |= self._classed(features.get(self._label), name)
    return found

  def _classed(self, labels: Any, name: str) -> sources.Example:
    labels = np.zeros(0, np.int64) if isinstance(labels, list) and not labels else labels
    right = isinstance(labels, np.ndarray) and (self.targets or len(labels) == 1)
    if not right or not np.all((labels >= 0) & (labels < self.num_classes)):
      raise sources.Unreadable(f"{name} (its feature {self._label} is no class)")
    if not self.targets:
      return {"label": np.int32(labels[0])}
    targets = np.zeros(self.num_classes, np.float32)
    targets[labels] = 1
    return {"label": np.int32(-1), "targets": targets}

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != "_records"}

  def __setstate__(self, state):
    import tensorflow_datasets as library

    self.__dict__.update(state)
    path, split = self._where
    self._records = _records(library.builder_from_directory(path), split)


def _records(builder: Any, split: str) -> Any:
  import tensorflow_datasets as library

  raw = library.decode.DeserializeMethod.RAW_BYTES
  return builder.as_data_source(split, deserialize_method=raw)


def flat(features: Any) -> dict[str, Any]:
  """Returns features by the names that they have in a record; of a sequence each is one too."""
  import tensorflow_datasets as library

  if isinstance(features, library.features.Sequence):
    inner = features.feature
    if not hasattr(inner, "items"):
      return {}
    return {name: library.features.Sequence(feature) for name, feature in inner.items()}
  return dict(features.items())


def _classes(feature: Any) -> Any:
  """Returns the class label that a feature is, or is a sequence of; None if it is neither."""
  inner = getattr(feature, "feature", feature)
  return inner if hasattr(inner, "num_classes") else None


def _numbers(feature: Any) -> Any:
  """Returns a feature that has numbers for each frame; None if it is another."""
  inner = getattr(feature, "feature", None)
  kind = getattr(inner, "np_dtype", None)
  # Features of several parts have several types.
  plain = isinstance(kind, type | np.dtype) and np.issubdtype(kind, np.number)
  return feature if plain and _classes(feature) is None else None


def films(features: Any) -> list[str]:
  """Returns the names of features that are films, those of known cameras first."""
  import tensorflow_datasets as library

  found = [
    name
    for name, feature in flat(features).items()
    if isinstance(feature, library.features.Sequence)
    and isinstance(feature.feature, library.features.Image)
  ]
  rank = {camera: place for place, camera in enumerate(robot.CAMERAS)}
  return sorted(found, key=lambda name: rank.get(name, -1))


def chosen(features: Any, options: Mapping[str, Any], *, argument: str, key: str) -> dict[str, str]:
  """Returns names of features as `TfdsFilms` takes them. Raises: UserError for one that is none."""
  parts, shown = flat(features), films(features)
  found = {"video": options.get("video") or shown[0], "action": "", "label": ""}
  if found["video"] not in shown:
    raise errors.unknown(f"{key}.options.video", found["video"], f"a film of {argument}", shown)
  for option, usual in (("action", ("action", "actions")), ("label", ("label", "labels"))):
    fits = _numbers if option == "action" else _classes
    fit = [name for name in parts if name not in shown and fits(parts[name]) is not None]
    if options.get(option):
      if options[option] not in fit:
        raise errors.unknown(
          f"{key}.options.{option}", options[option], f"{option}s of {argument}", fit
        )
      found[option] = options[option]
    else:
      found[option] = next((name for name in usual if name in fit), "")
  return found
