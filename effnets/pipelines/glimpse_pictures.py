"""Pictures of where a network looked, and curves of what that brought."""

import colorsys
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from effnets import augment

# A picture's side on the sheet, in pixels at the least; pictures in a row.
_SIDE = 256
_COLUMNS = 4

Curves = Mapping[str, Mapping[str, Sequence[float]]]
"""Policy -> figure -> its value after 1, 2, … glimpses."""


def glimpses(
  picture: UInt8[np.ndarray, "h w 3"], windows: Int[np.ndarray, "t 3"], *, word: str = ""
) -> UInt8[np.ndarray, "H W 3"]:
  """Returns the picture, enlarged, with a numbered square for every glimpse, from red to blue.

  windows: top, left and side in pixels of the picture. word: in the lower left corner.
  """
  factor = max(1, -(-_SIDE // picture.shape[0]))
  size = (picture.shape[1] * factor, picture.shape[0] * factor)
  image = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.NEAREST)
  pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
  for number, (top, left, side) in reversed(list(enumerate(windows.tolist(), 1))):
    share = (number - 1) / max(1, len(windows) - 1)
    colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(0.66 * share, 1, 1))
    box = [factor * left, factor * top, factor * (left + side) - 1, factor * (top + side) - 1]
    pen.rectangle(box, outline=colour, width=2)
    pen.text((box[0] + 4, box[1] + 2), str(number), fill=colour, font=font)
  if word:
    where = (3, size[1] - 19)
    pen.rectangle((*where, where[0] + 8 * len(word) + 4, size[1] - 2), fill=(0, 0, 0))
    pen.text((where[0] + 2, where[1] + 1), word, fill=(255, 255, 255), font=font)
  return np.asarray(image)


def sheet(pictures: Sequence[UInt8[np.ndarray, "h w 3"]], file: Any) -> None:
  """Writes pictures of one size, side by side in rows, as PNG."""
  tiles = list(pictures)
  columns = min(_COLUMNS, len(tiles))
  tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
  rows = np.stack(tiles).reshape(-1, columns, *tiles[0].shape)
  augment.write_png(file, augment.grid(rows))


def curves(groups: Mapping[str, Curves], path: str | pathlib.Path) -> None:
  """Draws top-1 over glimpses, and over the area that was looked at, a row for each group."""
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 0.8 + 3.6 * len(groups)), layout="constrained", dpi=110)
  backend_agg.FigureCanvasAgg(figure)
  panels = figure.subplots(len(groups), 2, squeeze=False)
  names = list(dict.fromkeys(name for policies in groups.values() for name in policies))
  for (title, policies), (left, right) in zip(groups.items(), panels, strict=True):
    for name, values in policies.items():
      look = {"color": f"C{names.index(name) % 10}", "label": name, "marker": "o", "ms": 4}
      top1 = [100 * v for v in values["top1"]]
      if len(top1) == 1:  # all patches at once
        left.axhline(top1[0], ls="--", color=look["color"], label=name)
      else:
        left.plot(range(1, len(top1) + 1), top1, **look)
      right.plot([100 * v for v in values["coverage"]], top1, **look)
    left.set_title(title)
    left.set_xlabel("glimpses")
    right.set_xlabel("area looked at [%]")
    for axes in (left, right):
      axes.set_ylabel("top-1 [%]")
      axes.grid(alpha=0.3)
      axes.spines[["top", "right"]].set_visible(False)
  handles, labels = panels[0][0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, metadata={"Software": None})
