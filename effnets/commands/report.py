"""`--mode=report`: where the time of a run went."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rich import box, table
from rich import console as rich_console

from effnets import errors, training, workdirs

FILE, PLOT = "report.json", "plots/report.png"


def report(config: Any, workdir: str) -> None:
  """Prints where the time of the run in `workdir`, or of each of its stages, went.

  Seconds and shares by kind, the share in updates that counted (goodput), images a second and
  device, and, where a plan lies in the workdir, how much of its roofline that is. All of it goes to
  `report.json`, and as bars to `plots/report.png`.

  Raises: UserError if there are no events in `workdir`.
  """
  del config
  path = pathlib.Path(workdir)
  found = {
    "" if file.parent == path else str(file.parent.relative_to(path)): training.events.account(
      training.events.read(file)
    )
    for file in sorted(path.rglob(training.events.FILE))
  }
  if not found:
    raise errors.UserError(
      f"--workdir={workdir} holds no {training.events.FILE}; give the folder of a run."
    )
  roofs = _rooflines(path)
  content = {name: _described(spent, roofs.get(name)) for name, spent in found.items()}
  workdirs.write(workdir, FILE, json.dumps(content, indent=2) + "\n")
  bars = {name or path.name: dict(spent.seconds) for name, spent in found.items()}
  training.plots.stacked(bars, path / PLOT, label="seconds")
  console = rich_console.Console()
  for name, row in content.items():
    console.print(_table(name or str(workdir), row))


def _rooflines(path: pathlib.Path) -> dict[str, float]:
  """Returns images a second and chip of the plan that lies in the workdir, by stage."""
  try:
    plans = json.loads((path / "plan.json").read_text(encoding="utf-8"))["plans"]
    return {
      p["stage"]: p["roofline"]["images_per_second_per_chip"] for p in plans if "roofline" in p
    }
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def _described(spent: training.events.Account, roof: float | None) -> dict[str, Any]:
  found = {
    "seconds": {kind: round(value, 3) for kind, value in spent.seconds.items()},
    "total_seconds": round(spent.total, 3),
    "goodput": round(spent.goodput, 4),
    "steps": spent.steps,
    "devices": spent.devices,
    "images_per_second_per_device": round(spent.images_per_second, 2),
    "seconds_to_first_step": round(spent.first_step, 3),
  }
  if roof:
    found["share_of_roofline"] = round(spent.images_per_second / roof, 4)
  return found


def _table(name: str, row: Mapping[str, Any]) -> table.Table:
  speed = (
    f"{row['images_per_second_per_device']:,.1f} images/s on each of {row['devices']} device(s)"
  )
  caption = f"{row['steps']:,} steps, {speed}, goodput {row['goodput']:.1%}, "
  caption += f"{row['seconds_to_first_step']:.1f} s to the first step"
  if "share_of_roofline" in row:
    caption += f", {row['share_of_roofline']:.1%} of the planned roofline"
  shown = table.Table(
    title=name, box=box.SIMPLE_HEAD, title_justify="left", caption=caption, caption_justify="left"
  )
  shown.add_column("time in")
  shown.add_column("seconds", justify="right")
  shown.add_column("share", justify="right")
  for kind, seconds in row["seconds"].items():
    shown.add_row(kind, f"{seconds:,.1f}", f"{seconds / max(row['total_seconds'], 1e-9):.1%}")
  return shown
