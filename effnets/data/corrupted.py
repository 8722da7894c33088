"""Views of a source whose pictures are corrupted or perturbed, and such pictures in folders.

`corrupted:SOURCE` is a source of this kind in a config: options `corruption` and `severity`, also
`seed`, `release` and `frost`; the others are SOURCE's own.

Pictures that come in one size, such as digits, are changed as they are. Others are first cut and
resized as those of the published release were, and end as JPEG of quality 85 like them:

  release 224   the shorter side to 256, of which the centre 224 x 224
  release 299   the central 87.5 % of height and of width, made 299 x 299

What is drawn depends on (seed, corruption, severity, number of the example) only. NumPy's normal
and Poisson draws may change with its versions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from effnets import errors
from effnets.augment import corruptions
from effnets.augment.corruptions import digital, tables
from effnets.augment.corruptions import sequences as sequences_lib
from effnets.data import decode, draws, folder, recent, sources

RELEASES = (224, 299)

_JPEG = 85
# Frames are cut from the centre of pictures that are larger by this.
_AROUND = 256 / 224
# The published code of the small corruptions shrinks the photos of frost by this.
_FROST_SHRINK = 5


class _View:
  """What a view has of its source; image_size is that of the view."""

  def __init__(self, source: sources.Source, name: str, image_size: int | None):
    self.source, self.name, self.image_size = source, f"{source.name}, {name}", image_size
    self.num_classes, self.class_names = source.num_classes, source.class_names

  def __len__(self) -> int:
    return len(self.source)


class Subset(_View):
  """`count` examples of a source, evenly spread, in its order."""

  def __init__(self, source: sources.Source, count: int):
    super().__init__(source, f"{count} of {len(source)}", source.image_size)
    self.indices = np.arange(count) * len(source) // count

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> sources.Example:
    return self.source[int(self.indices[index])]


def subset(source: sources.Source, count: int) -> sources.Source:
  """Returns `count` examples of the source, evenly spread; 0, or as many as it has, all of them."""
  return Subset(source, count) if 0 < count < len(source) else source


class Corrupted(_View):
  """A source seen through one corruption at one severity. Labels stay."""

  def __init__(
    self,
    source: sources.Source,
    corruption: str,
    severity: int,
    *,
    seed: int = 0,
    release: int = 224,
    frost: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
  ):
    """Takes the source; frost: photos for it, see `frost_photos`; the rest as in the module."""
    super().__init__(source, f"{corruption} {severity}", source.image_size or release)
    self._corruption, self._severity = corruption, severity
    self._seed, self._frost = seed, frost
    self._cut = None
    if source.image_size is None:
      crop = {"fraction": 0.875, "interpolation": "bilinear", "squash": release == 299}
      self._cut = decode.CentreCrop(release, **crop)

  def clean(self, index: int) -> sources.Example:
    """Returns an example as it is before the corruption."""
    example = self.source[index]
    return self._cut(example) if self._cut else example

  def __getitem__(self, index: int) -> sources.Example:
    example = self.clean(index)
    name = f"corruption/{self._corruption}/{self._severity}"
    rng = draws.generator(self._seed, name, index)
    image = corruptions.corrupt(
      example["image"], self._corruption, self._severity, rng, frost=self._frost
    )
    if self._cut:
      image = digital.jpeg(image, _JPEG, optimize=True)
    return {**example, "image": image}


class Sequences(_View):
  """The frames of one perturbation of every picture: example i is frame i % frames of i // frames.

  frames: of each sequence.
  """

  def __init__(
    self,
    source: sources.Source,
    perturbation: str,
    *,
    seed: int = 0,
    release: int = 224,
    difficulty: int = 1,
  ):
    """Takes the source; difficulty: 1 to 3, see `corruptions.sequence`."""
    self._side = 0 if source.image_size else release
    super().__init__(source, perturbation, source.image_size or release)
    self.frames = sequences_lib.frames(perturbation)
    self._cut = None
    if self._side:
      self._cut = decode.CentreCrop(round(self._side * _AROUND), 1.0, "bilinear")
    self._perturbation, self._seed, self._difficulty = perturbation, seed, difficulty
    self._recent = recent.Recent(self._sequence)

  def __len__(self) -> int:
    return len(self.source) * self.frames

  def __getitem__(self, index: int) -> sources.Example:
    example = self._recent[index // self.frames]
    return {**example, "image": example["image"][index % self.frames]}

  def _sequence(self, index: int) -> sources.Example:
    example = self.source[index]
    if self._cut:
      example = self._cut(example)
    name, difficulty = self._perturbation, self._difficulty
    rng = draws.generator(self._seed, f"perturbation/{name}/{difficulty}", index)
    noise = name in corruptions.NOISE_SEQUENCES
    frames = corruptions.sequence(
      example["image"], name, rng, side=self._side, difficulty=difficulty if noise else 1
    )
    return {**example, "image": frames}


def frost_photos(path: str, side: int, *, key: str) -> list[UInt8[np.ndarray, "H W 3"]]:
  """Returns the photos of frost in a folder, sorted by name, for pictures of `side` pixels.

  For pictures that take the corruptions' numbers of 32 pixels they are made five times smaller.

  Raises: UserError if there are none, or one is smaller than the pictures.
  """
  source = folder.pictures(path, key=key)
  photos = []
  for index in range(len(source)):
    try:
      photo = source[index]["image"]
    except sources.Unreadable as error:
      raise errors.UserError(f"{key}={path!r}: a photo cannot be read: {error}.") from error
    if tables.table_size(side, side) == 32:
      height, width = (length // _FROST_SHRINK for length in photo.shape[:2])
      small = Image.fromarray(photo).resize((max(width, 1), max(height, 1)), Image.Resampling.BOX)
      photo = np.asarray(small)
    if min(photo.shape[:2]) < side:
      raise errors.UserError(
        f"{key}={path!r}: {source.paths[index]} is {photo.shape[1]} x {photo.shape[0]} pixels as "
        f"it is used; it should be at least {side} x {side}."
      )
    photos.append(photo)
  return photos


def published(path: str, corruption: str, severity: int, *, key: str) -> folder.Folder | None:
  """Returns PATH/CORRUPTION/SEVERITY/CLASS/IMAGE, or None if there is no such folder.

  One more folder in between may group corruptions, PATH/*/CORRUPTION, as in the published files.

  Raises: UserError if it holds no pictures.
  """
  inner = folder.below(path, corruption, str(severity))
  return by_class(str(inner), key=key) if inner else None


def by_class(path: str, *, key: str) -> folder.Folder:
  """Returns the pictures PATH/CLASS/IMAGE, for which the classes' sorted names give the labels.

  Raises: UserError if there are none.
  """
  try:
    return folder.open_split(path, "all", options={}, key=key, split_key=key)
  except errors.UserError as error:
    raise errors.UserError(
      f"{key}: {path!r} holds no classes of pictures; expected CLASS/IMAGE in it."
    ) from error


_OPTIONS = ("corruption", "severity", "seed", "release", "frost")


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> Corrupted:
  """Returns one split of the source `argument`, corrupted; options as in the module.

  Raises: errors.UserError if the source, its split or an option is wrong.
  """
  own = {name: options[name] for name in options if name in _OPTIONS}
  rest = {name: value for name, value in options.items() if name not in own}
  inner = sources.open_source(argument, split, options=rest, key=key, split_key=split_key)
  name, severity = own.get("corruption"), own.get("severity", 1)
  tables.check(str(name), key=f"{key}.options.corruption")
  if severity not in tables.SEVERITIES:
    raise errors.UserError(f"{key}.options.severity={severity!r} should be from 1 to 5.")
  release = own.get("release", 224)
  if release not in RELEASES:
    raise errors.UserError(f"{key}.options.release={release!r} should be 224 or 299.")
  photos = ()
  if name == "frost":
    if not own.get("frost"):
      raise errors.UserError(f"{key}.options.frost is missing: a folder with photos of frost.")
    side = inner.image_size or release
    photos = frost_photos(own["frost"], side, key=f"{key}.options.frost")
  return Corrupted(inner, name, severity, seed=own.get("seed", 0), release=release, frost=photos)
