"""KITTI's raw recordings as films to predict: `kitti:PATH`, PATH/…/RECORDING/CAMERA/data/*.png.

RECORDING is as it is published, 2011_09_26_drive_0005_sync, however deep below PATH; CAMERA is
image_02 and image_03, the colour cameras. One recording of each kind of road is `validation`, one
`test`, the rest `train`: by default city 0005 and 0104, residential 0035 and 0079, road 0015 and
0070, all of 2011_09_26, after PredNet's split as far as it is known.

Options: `validation`, `test`: recordings that are held out instead; `cameras`, ("image_02",
"image_03"); `window`, see `frames`.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from effnets import errors
from effnets.data import frames, sources

_DAY = "2011_09_26_drive_{}_sync"
VALIDATION = tuple(_DAY.format(number) for number in ("0005", "0035", "0015"))
TEST = tuple(_DAY.format(number) for number in ("0104", "0079", "0070"))
CAMERAS = ("image_02", "image_03")
_RECORDING = re.compile(r"\d{4}_\d{2}_\d{2}_drive_\d{4}_sync")


def open_split(
  argument: str, split: str, *, options: Mapping[str, Any], key: str, split_key: str
) -> frames.Frames:
  """Returns one split of the folder `argument`; options: see the module.

  Raises: errors.UserError if path, split or option is wrong, or there are no films.
  """
  known = ("cameras", "test", "validation", "window")
  sources.check_options(options, known, kind="kitti", key=key)
  held = {
    "validation": tuple(options.get("validation", VALIDATION)),
    "test": tuple(options.get("test", TEST)),
  }
  for part, names in held.items():
    for name in names:
      if not _RECORDING.fullmatch(name):
        raise errors.UserError(
          f"{key}.options.{part}: {name!r} is no recording, such as {TEST[0]!r}."
        )
  if split not in ("train", *held):
    raise errors.unknown(split_key, split, "a split of kitti", ("train", *held))
  cameras = tuple(options.get("cameras", CAMERAS))
  for camera in cameras:
    if not re.fullmatch(r"image_0[0-3]", camera):
      raise errors.unknown(
        f"{key}.options.cameras", camera, "a camera", [f"image_0{i}" for i in range(4)]
      )
  expected = f"PATH/…/{TEST[0]}/{cameras[0]}/data/*.png"
  parent = frames.root("kitti", argument, key=key, expected=expected)
  away = {*held["validation"], *held["test"]}
  paths = []
  for path in frames.below(parent):
    parts = pathlib.Path(path).relative_to(parent).parts
    recording = next((part for part in parts if _RECORDING.fullmatch(part)), None)
    if recording is None or not set(cameras) & set(parts):
      continue
    if recording in held[split] if split in held else recording not in away:
      paths.append(path)
  return frames.create(
    "kitti",
    argument,
    split,
    paths,
    window=frames.window(options, key=key),
    key=key,
    expected=expected,
  )
