"""Curves of one or several runs as a picture: loss, top-1, learning rate and the like."""

import math
import pathlib
from collections.abc import Mapping, Sequence

from effnets.training import writers

# Series by name: (steps, values). A run may also be given as the path of its metrics.jsonl.
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]

# Panels in the order of the picture: words that a metric's last name has, title, label with unit,
# factor, logarithmic axis.
_PANELS = (
  (("loss",), "Loss", "loss", 1.0, False),
  (("psnr_best",), "PSNR, best sample", "PSNR [dB]", 1.0, False),
  (("ssim_best",), "SSIM, best sample", "SSIM", 1.0, False),
  (("top1", "accuracy"), "Top-1 accuracy", "top-1 [%]", 100.0, False),
  (("top5",), "Top-5 accuracy", "top-5 [%]", 100.0, False),
  (("learning_rate", "lr"), "Learning rate", "learning rate", 1.0, True),
)

# Distinguishable with any colour vision (after Wong, Nature Methods 2011), darkest first.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
# Looks of the prefixes: training figures thin, the others (evaluations) strong with markers.
_TRAIN = {"ls": "-", "lw": 1.2, "alpha": 0.6}
# One evaluation alone is a marker without a line, so each has its own.
_EVALUATIONS = tuple(
  {"ls": style, "lw": 2.0, "marker": marker, "ms": 4}
  for style, marker in (("-", "o"), ("--", "D"), (":", "^"))
)
# From this many points on a line that zigzags is drawn as its running mean over a pale original.
_SMOOTH_FROM = 60


def curves(
  runs: Mapping[str, str | pathlib.Path | Series] | str | pathlib.Path,
  path: str | pathlib.Path,
  *,
  title: str | None = None,
) -> pathlib.Path | None:
  """Draws the curves of `runs` to the PNG file `path` and returns it; None if there are no figures.

  One panel for each kind of metric that occurs, recognised by the last part of its name
  (`validation/top1` is a top-1): losses, top-1, top-5 (fractions in [0, 1], drawn in percent) and
  learning rates; other metrics are left out. Each run has a colour, each prefix (`train`,
  `validation`, ...) a look. Figures that are not finite leave a gap.

  Args:
    runs: name -> metrics.jsonl (or the workdir it lies in) or series; or one such path.
    title: above the picture.
  """
  if isinstance(runs, (str, pathlib.Path)):
    runs = {"": runs}
  loaded = {
    name: load(run) if isinstance(run, (str, pathlib.Path)) else run for name, run in runs.items()
  }
  panels = []
  for words, *labels in _PANELS:
    lines = [
      (run, *_split(metric), *_plain(points))
      for run, series in loaded.items()
      for metric, points in series.items()
      if _split(metric)[1] in words
    ]
    lines = [line for line in lines if len(line[3])]
    if lines:
      panels.append((lines, *labels))
  if not panels:
    return None

  # The object interface with the Agg canvas: no display, no global figure to leak.
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5.5 * len(panels), 4.4), layout="constrained", dpi=110)
  backend_agg.FigureCanvasAgg(figure)
  looks = _looks(line[1] for lines, *_ in panels for line in lines)
  names = list(loaded)
  every_axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for axes, (lines, heading, label, factor, logarithmic) in zip(every_axes, panels, strict=True):
    for run, prefix, _, steps, values in lines:
      _line(
        axes,
        steps,
        [factor * v for v in values],
        colour=_COLOURS[names.index(run) % len(_COLOURS)],
        look=looks[prefix],
      )
    _dress(axes, heading, label, logarithmic and _spans_decades(lines))
  handles = _handles(names, looks)
  if handles:
    figure.legend(
      handles=handles,
      loc="outside lower center",
      ncols=min(len(handles), 3 * len(panels)),
      frameon=False,
    )
  if title:
    figure.suptitle(title, fontsize=13, fontweight="bold")
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, metadata={"Software": None})
  return path


def load(path: str | pathlib.Path) -> dict[str, tuple[list[float], list[float]]]:
  """Returns the series of a metrics.jsonl, or of its workdir: name -> (steps, values)."""
  path = pathlib.Path(path)
  series: dict[str, tuple[list, list]] = {}
  for line in writers.read(path / writers.FILE if path.is_dir() else path):
    for name, value in line.items():
      if name not in ("step", "time") and isinstance(value, (int, float, type(None))):
        steps, values = series.setdefault(name, ([], []))
        steps.append(line["step"])
        values.append(math.nan if value is None else value)
  return series


def _split(metric):
  prefix, _, last = metric.rpartition("/")
  return prefix, last


def _plain(points):
  steps, values = points
  pairs = sorted(zip(map(float, steps), map(float, values), strict=True))
  finite = [v for _, v in pairs if math.isfinite(v)]
  return ([s for s, _ in pairs], [v for _, v in pairs]) if finite else ([], [])


def _spans_decades(lines):
  positive = [v for *_, values in lines for v in values if v > 0]
  return bool(positive) and max(positive) > 30 * min(positive)


def _looks(prefixes):
  """Returns the keyword arguments of a line for each of `prefixes`."""
  names = list(dict.fromkeys(prefixes))
  evaluations = [name for name in names if "train" not in name and name]
  count = len(_EVALUATIONS)
  return {
    n: _EVALUATIONS[evaluations.index(n) % count] if n in evaluations else _TRAIN for n in names
  }


def _line(axes, steps, values, *, colour, look):
  import numpy as np

  values = np.where(np.isfinite(values), values, np.nan)
  if len(steps) > 40:
    look = {**look, "marker": None}
  if len(steps) < _SMOOTH_FROM or np.isnan(values).any() or _is_smooth(values):
    axes.plot(steps, values, color=colour, **look)
    return
  axes.plot(steps, values, color=colour, lw=0.6, alpha=0.15)
  # The window shrinks towards both ends, so that the mean begins and ends where the line does.
  index = np.arange(len(values))
  half = np.minimum(np.minimum(index, index[::-1]), max(len(values) // 50, 2))
  total = np.concatenate([[0.0], np.cumsum(values)])
  mean = (total[index + half + 1] - total[index - half]) / (2 * half + 1)
  axes.plot(steps, mean, color=colour, **look)


def _is_smooth(values):
  """Returns whether the line goes up and down so little that it needs no running mean."""
  import numpy as np

  steps = np.diff(values)
  return np.abs(steps).sum() <= 3 * (np.ptp(values) + 1e-12)


def _dress(axes, heading, label, logarithmic):
  from matplotlib import ticker

  axes.set_title(heading, fontsize=11)
  axes.set_xlabel("step")
  axes.set_ylabel(label)
  if logarithmic:
    axes.set_yscale("log")
  axes.grid(True, color="#DDDDDD", lw=0.7)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  axes.xaxis.set_major_formatter(
    ticker.FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 10000 else f"{step:g}")
  )


def _handles(names, looks):
  """Returns legend entries: a colour for each run, a look for each prefix, where there are two."""
  from matplotlib.lines import Line2D

  handles = []
  if len(names) > 1 or names[0]:
    for index, name in enumerate(names):
      handles.append(Line2D([], [], color=_COLOURS[index % len(_COLOURS)], lw=3, label=name))
  if len(looks) > 1:
    for prefix, look in looks.items():
      handles.append(Line2D([], [], color="#555555", label=prefix or "other", **look))
  return handles


def stacked(
  bars: Mapping[str, Mapping[str, float]], path: str | pathlib.Path, *, label: str
) -> pathlib.Path:
  """Draws one horizontal bar for each name, cut into its parts, to the PNG file `path`.

  bars: name -> part -> size; a part has one colour in all bars. label: what the sizes are.
  """
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  parts = list(dict.fromkeys(part for sizes in bars.values() for part in sizes))
  figure = Figure(figsize=(8, 1.4 + 0.45 * len(bars)), layout="constrained", dpi=150)
  backend_agg.FigureCanvasAgg(figure)
  axes = figure.subplots()
  starts = dict.fromkeys(bars, 0.0)
  for index, part in enumerate(parts):
    sizes = [sizes.get(part, 0.0) for sizes in bars.values()]
    colour = _COLOURS[index % len(_COLOURS)]
    axes.barh(list(bars), sizes, left=list(starts.values()), color=colour, label=part)
    starts = {name: starts[name] + size for name, size in zip(bars, sizes, strict=True)}
  axes.invert_yaxis()
  axes.set_xlabel(label)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(loc="outside upper center", ncols=min(len(parts), 5), frameon=False)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, metadata={"Software": None})
  return path
