"""Several runs side by side, each at several seeds: means with standard errors, as pictures too."""

import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

Arms = Mapping[str, Sequence[float]]
"""Name -> one value a seed, as fractions."""


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
  """Returns the mean and its standard error, s / sqrt(n) with s over n - 1; nan for one value.

  >>> mean_and_error([1.0, 2.0, 3.0])
  (2.0, 0.5773502691896258)
  """
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return float(values.mean()), math.nan
  return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def shown(values: Sequence[float], form: str = ".2%") -> str:
  """Returns mean ± standard error, in percent unless `form` says otherwise; of one value, that.

  >>> shown([0.5, 0.6, 0.7]), shown([0.5]), shown([5, 6, 7], ".1f")
  ('60.00% ± 5.77%', '50.00%', '6.0 ± 0.6')
  """
  mean, error = mean_and_error(values)
  return f"{mean:{form}}" if math.isnan(error) else f"{mean:{form}} ± {error:{form}}"


def dots(arms: Arms, path: str | pathlib.Path, *, label: str) -> None:
  """Draws every value of every arm, and the means with standard errors, to the PNG file `path`.

  label: what the values are, without the unit; they are shown in percent.
  """
  figure = _figure(7, 0.8 + 0.5 * len(arms))
  axes = figure.subplots()
  for row, values in enumerate(arms.values()):
    percent = 100 * np.asarray(values)
    mean, error = mean_and_error(percent)
    axes.plot(percent, np.full(len(percent), row), "o", color="0.7", markersize=5, zorder=1)
    bar = None if math.isnan(error) else error
    axes.errorbar(mean, row, xerr=bar, fmt="D", color=f"C{row % 10}", ms=7, capsize=4, zorder=2)
    axes.annotate(
      f"{mean:.1f}", (mean, row), xytext=(0, 8), textcoords="offset points", ha="center"
    )
  axes.set_yticks(range(len(arms)), list(arms))
  axes.set_ylim(len(arms) - 0.5, -0.6)
  axes.set_xlabel(f"{label} [%]\ngrey: single seeds, coloured: mean ± s.e.")
  axes.grid(axis="x", alpha=0.3)
  axes.spines[["top", "right", "left"]].set_visible(False)
  axes.tick_params(left=False)
  _save(figure, path)


def bars(groups: Mapping[str, Arms], path: str | pathlib.Path, *, label: str) -> None:
  """Draws a bar for the median of every arm in every group, and a dot for every seed.

  groups: group -> arms, which are the same in all. label: what the values are; shown in percent.
  """
  arms = list(next(iter(groups.values())))
  figure = _figure(2 + 0.16 * len(groups) * (len(arms) + 1), 4)
  axes = figure.subplots()
  wide = 0.8 / len(arms)
  for number, arm in enumerate(arms):
    places = np.arange(len(groups)) + (number - (len(arms) - 1) / 2) * wide
    values = [100 * np.asarray(group[arm], np.float64) for group in groups.values()]
    medians = [float(np.median(each)) for each in values]
    axes.bar(places, medians, wide, color=f"C{number % 10}", label=arm, zorder=2)
    for place, each in zip(places, values, strict=True):
      axes.plot(np.full(len(each), place), each, ".", color="0.2", markersize=3, zorder=3)
  axes.set_xticks(range(len(groups)), list(groups))
  lowest = min(float(np.min(values)) for group in groups.values() for values in group.values())
  # Bars that all start at 0 would hide what they are drawn for.
  axes.set_ylim(bottom=min(0.0, 100 * lowest) if lowest < 0.3 else 100 * lowest - 10)
  axes.set_ylabel(f"{label} [%]")
  axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
  axes.grid(axis="y", alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
  _save(figure, path)


def heat_map(
  cells: Mapping[tuple[str, str], Sequence[float]],
  path: str | pathlib.Path,
  *,
  label: str,
  axes: tuple[str, str],
) -> None:
  """Draws the mean of every cell, by row and column name, to the PNG file `path`.

  label: what the values are, shown in percent. axes: what rows and columns are.
  """
  rows = list(dict.fromkeys(row for row, _ in cells))
  columns = list(dict.fromkeys(column for _, column in cells))
  grid = np.full((len(rows), len(columns)), np.nan)
  for (row, column), values in cells.items():
    grid[rows.index(row), columns.index(column)] = 100 * np.mean(values)
  figure = _figure(2.5 + 0.8 * len(columns), 1.5 + 0.5 * len(rows))
  panel = figure.subplots()
  picture = panel.imshow(grid, aspect="auto", cmap="viridis")
  middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
  for (row, column), value in np.ndenumerate(grid):
    if not math.isnan(value):
      colour = "white" if value < middle else "black"
      panel.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
  panel.set_yticks(range(len(rows)), rows)
  panel.set_xticks(range(len(columns)), columns)
  panel.set_ylabel(axes[0])
  panel.set_xlabel(axes[1])
  figure.colorbar(picture, label=f"{label} [%]")
  _save(figure, path)


def _figure(width: float, height: float):
  # The object interface with the Agg canvas: no display, no global figure to leak.
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
  backend_agg.FigureCanvasAgg(figure)
  return figure


def _save(figure, path: str | pathlib.Path) -> None:
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, metadata={"Software": None})
