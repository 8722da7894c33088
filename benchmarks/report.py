"""Tables and charts of measured steps: medians of interleaved rounds, and ratios of them."""

import os
import pathlib
import statistics
import textwrap
from collections.abc import Mapping, Sequence

Seconds = Mapping[tuple[str, str], Sequence[float]]
"""(contestant, kind) -> seconds of each round."""


def best(seconds: Seconds, kind: str, contestants: Sequence[str]) -> float | None:
  """Returns the smallest median of `kind` among `contestants`, None if none was measured."""
  medians = [statistics.median(seconds[c, kind]) for c in contestants if seconds.get((c, kind))]
  return min(medians, default=None)


def table(
  title: str,
  seconds: Seconds,
  contestants: Sequence[str],
  *,
  kinds: Sequence[str],
  batch: int,
  notes: Mapping[str, str],
) -> str:
  """Returns images/s of each contestant: median (best round), and that over the fastest peer's.

  Args: title: first line. notes: why a contestant was not measured. Peers are those whose name
    does not start with effnets; without any the ratio is left out.
  """
  peers = [c for c in contestants if not c.startswith("effnets")]
  lines = [title, f"{'':16}" + "".join(f"{kind:>27}" for kind in kinds)]
  for contestant in contestants:
    if contestant in notes:
      lines.append(f"{contestant:16}  {notes[contestant]}")
      continue
    cells = []
    for kind in kinds:
      times = seconds.get((contestant, kind))
      if not times:
        cells.append(f"{'-':>27}")
        continue
      median, peer = statistics.median(times), best(seconds, kind, peers)
      ratio = f"{peer / median:.2f}x" if peer else ""
      cells.append(f"{batch / median:11.1f} ({batch / min(times):6.1f}) {ratio:>6}")
    lines.append(f"{contestant:16}" + "".join(cells))
  return "\n".join(lines)


def chart(
  measured: Mapping[tuple[str, int], Seconds],
  contestants: Sequence[str],
  path: str | os.PathLike[str],
  *,
  kinds: Sequence[str],
  heading: str,
) -> None:
  """Draws images/s, one panel per kind and batch, models side by side, to the PNG file `path`.

  Args: measured: by (model, batch).
  """
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  batches = list(dict.fromkeys(batch for _, batch in measured))
  models = list(dict.fromkeys(model for model, _ in measured))
  shown = [c for c in contestants if any((c, k) in s for s in measured.values() for k in kinds)]
  figure = Figure(figsize=(4.5 * len(kinds), 3.2 * len(batches)), layout="constrained")
  backend_agg.FigureCanvasAgg(figure)
  panels = figure.subplots(len(batches), len(kinds), squeeze=False)
  width = 0.8 / max(1, len(shown))
  for row, batch in zip(panels, batches, strict=True):
    for panel, kind in zip(row, kinds, strict=True):
      for index, contestant in enumerate(shown):
        times = [measured.get((m, batch), {}).get((contestant, kind)) for m in models]
        rates = [batch / statistics.median(t) if t else 0.0 for t in times]
        places = [m + (index - (len(shown) - 1) / 2) * width for m in range(len(models))]
        panel.bar(places, rates, width, label=contestant)
      panel.set_xticks(range(len(models)), models, fontsize=8)
      panel.set_title(f"{kind}, batch {batch}", fontsize=9)
      panel.set_ylabel("images/s")
  panels[0][0].legend(fontsize=7)
  figure.suptitle(textwrap.fill(heading, 60 * len(kinds)), fontsize=9)
  unfinished = pathlib.Path(path).with_suffix(".unfinished.png")
  figure.savefig(unfinished, dpi=120)
  unfinished.replace(path)


def write(text: str, path: str | os.PathLike[str]) -> None:
  """Writes `text` to `path`, all of it or nothing."""
  unfinished = pathlib.Path(path).with_suffix(".unfinished")
  unfinished.write_text(text, encoding="utf-8")
  unfinished.replace(path)
