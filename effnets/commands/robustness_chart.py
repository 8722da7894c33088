"""Pictures of robustness: bars by corruption and perturbation, curves over the size of attacks."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from effnets.augment.corruptions import tables

# One colour a kind of corruption; distinguishable with any colour vision (after Wong 2011).
_KINDS = (
  (tables.NOISE, "#D55E00", "noise"),
  (tables.BLUR, "#0072B2", "blur"),
  (tables.WEATHER, "#009E73", "weather"),
  (tables.DIGITAL, "#CC79A7", "digital"),
)
_OTHER = "#8C6D31"


def draw(content: Mapping[str, Any], path: pathlib.Path, *, title: str) -> pathlib.Path | None:
  """Draws the figures of `robustness.json` to a PNG file and returns it; None if there are none.

  One panel a suite: errors by corruption, the mean as a bar and each severity as a dot, beside the
  error on clean pictures; flip probability by perturbation; top-1 over ε.
  """
  panels = [
    (key, draw_panel)
    for key, draw_panel in (
      ("corruptions", _corruptions),
      ("photos", _photos),
      ("sequences", _sequences),
      ("attacks", _attacks),
    )
    if key in content
  ]
  if not panels:
    return None

  # The object interface with the Agg canvas: no display, no global figure to leak.
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5.5 * len(panels), 5), layout="constrained", dpi=110)
  backend_agg.FigureCanvasAgg(figure)
  every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for axes, (_, draw_panel) in zip(every_axes, panels, strict=True):
    draw_panel(axes, content)
    axes.grid(True, color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
  figure.suptitle(title, fontsize=12, fontweight="bold")
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, metadata={"Software": None})
  return path


def sheet(
  rows: Mapping[str, Sequence[UInt8[np.ndarray, "h w 3"]]],
  columns: Sequence[str],
  path: pathlib.Path,
) -> None:
  """Draws pictures of one size to a PNG file, a row a name, with the names beside."""
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  tiles = np.stack([np.stack(row) for row in rows.values()])
  count, width, side, across, _ = tiles.shape
  gap = max(1, side // 32)
  framed = np.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
  grid = framed.swapaxes(1, 2).reshape(count * (side + gap), width * (across + gap), 3)
  figure = Figure(figsize=(1.1 * width + 2.6, 1.1 * count + 0.5), layout="constrained", dpi=110)
  backend_agg.FigureCanvasAgg(figure)
  axes = figure.subplots()
  axes.imshow(grid, interpolation="nearest")
  names = [name.replace("_", " ") for name in rows]
  axes.set_yticks((np.arange(count) + 0.5) * (side + gap), names)
  axes.set_xticks((np.arange(width) + 0.5) * (across + gap), columns)
  axes.xaxis.tick_top()
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, metadata={"Software": None})


def _bars(axes, by_name: Mapping[str, Mapping[Any, float]], label: str) -> None:
  """Draws the mean as a bar and the single values as dots, the first name at the top."""
  names = list(by_name)
  seen = set()
  for place, name in enumerate(names):
    values = 100 * np.array(list(by_name[name].values()))
    colour, kind = next(((c, k) for group, c, k in _KINDS if name in group), (_OTHER, "other"))
    # Entries of the legend once a kind; a name with an underscore has none.
    axes.barh(place, values.mean(), color=colour, label=f"_{kind}" if kind in seen else kind)
    if len(values) > 1:
      axes.plot(values, np.full(len(values), place), "o", color="black", ms=3, alpha=0.6)
    seen.add(kind)
  axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
  axes.invert_yaxis()
  axes.set_xlim(0, None)
  axes.set_xlabel(label)


def _corruptions(axes, content) -> None:
  found = content["corruptions"]
  _bars(axes, found["errors"], "error [%], mean and each severity")
  if "clean" in content:
    axes.axvline(100 * content["clean"]["error"], color="black", ls="--", lw=1.2, label="clean")
  if found["mce"] is None:
    summary = f"mean error {100 * found['mean_error']:.1f} %"
  else:
    summary = f"mCE {100 * found['mce']:.1f} %"
  axes.set_title(f"Corruptions: {summary}{'' if found['complete'] else ' (incomplete)'}")
  axes.legend(fontsize=8, framealpha=0.9)


def _photos(axes, content) -> None:
  _bars(axes, content["photos"]["changed"], "tiles named otherwise [%]")
  axes.set_title("Embedded photos")


def _sequences(axes, content) -> None:
  found = content["sequences"]
  _bars(axes, {name: {1: v} for name, v in found["flip_probability"].items()}, "flips [%]")
  summary = f"mean {100 * found['mean_flip_probability']:.1f} %" if found["complete"] else "a part"
  if found["mfr"] is not None:
    summary = f"mFR {100 * found['mfr']:.1f} %"
  axes.set_title(f"Perturbation sequences: {summary}")


def _attacks(axes, content) -> None:
  for (name, by), marker in zip(content["attacks"]["top1"].items(), "osD^", strict=False):
    epsilons = [0.0, *map(float, by)]
    values = [1 - content["clean"]["error"], *by.values()]
    axes.plot(epsilons, 100 * np.array(values), marker=marker, label=name)
  axes.set_ylim(0, 100)
  axes.set_xlabel("ε [levels of 255]")
  axes.set_ylabel("top-1 [%]")
  axes.set_title("Attacks")
  axes.legend(fontsize=8)
