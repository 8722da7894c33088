"""Small sources for tests: example i is recognisable by its pixels and label."""

import numpy as np

from effnets.data import films, sources


class Numbered:
  """`count` examples; example i has every pixel i % 256 and label i % classes; some are broken."""

  def __init__(self, count, *, size=4, classes=10, broken=(), soft=False, name="numbered"):
    self.name, self.num_classes, self.image_size = name, classes, size
    self.class_names = tuple(map(str, range(classes)))
    self._count, self._broken, self._soft = count, frozenset(broken), soft

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    if not 0 <= index < self._count:
      raise IndexError(index)
    if index in self._broken:
      raise sources.Unreadable(f"file{index}.jpg (damaged)")
    side = self.image_size
    example = {
      "image": np.full((side, side, 3), index % 256, np.uint8),
      "label": np.int32(index % self.num_classes),
    }
    if self._soft:
      probabilities = np.full(self.num_classes, 0.5 / (self.num_classes - 1), np.float32)
      probabilities[index % self.num_classes] = 0.5
      example["probabilities"] = probabilities
    return example


def write_film(path, frames, *, lossless=True, more=()):
  """Writes uint8 frames `t h w 3` as a film."""
  path.parent.mkdir(parents=True, exist_ok=True)
  codec = {"codec": "libx264rgb", "pix_fmt_out": "rgb24"} if lossless else {"codec": "libx264"}
  writer = films.library().write_frames(
    str(path),
    (frames.shape[2], frames.shape[1]),
    quality=None,
    macro_block_size=1,
    ffmpeg_log_level="error",
    output_params=["-qp", "0" if lossless else "4", *more],
    **codec,
  )
  writer.send(None)
  for frame in frames:
    writer.send(np.ascontiguousarray(frame))
  writer.close()
