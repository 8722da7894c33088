"""Every registered model in numbers: `python -m effnets.zoo [PATTERN] [--json]`.

Parameters and multiply-adds are counted from the module's abstract trace, at the model's own image
size and with its paper's classes; no weights are made. The printed figures stand beside them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich import console as rich_console
from rich import table as rich_table

from effnets import errors, models


def rows(pattern: str = "*") -> list[dict[str, Any]]:
  """Returns one dict per model that matches the glob `pattern`, in natural order.

  Keys: name, task, params (trainable), madds (of convolutions and dense layers), image_size
  (pixels, or height and width; None for texts), tokens (of a text, else None), frames (of a
  clip, else None), paper_params, paper_madds, paper_top1, paper_ap, paper_miou (as printed there,
  or None), paper (arXiv number, or None).

  Raises: UserError if no model matches.
  """
  names = models.list_models(pattern)
  if not names:
    raise errors.unknown(
      "PATTERN", pattern, "a model, or a glob of some", models.list_models(), "no PATTERN"
    )
  found = []
  for name in names:
    entry = models.entry(name)
    count = models.count(models.create(name), entry.counted)
    found.append(
      {
        "name": name,
        "task": entry.task,
        "params": count.params,
        "madds": count.madds,
        "image_size": entry.counted or entry.image_size or None,
        "tokens": entry.tokens,
        "frames": entry.frames,
        "paper_params": entry.paper_params,
        "paper_madds": entry.paper_madds,
        "paper_top1": entry.paper_top1,
        "paper_ap": entry.paper_ap,
        "paper_miou": entry.paper_miou,
        "paper": entry.paper,
      }
    )
  return found


def _difference(here: float, paper: float | None) -> str:
  return "" if paper is None else f"{here / paper - 1:+.1%}"


def _millions(value: float | None) -> str:
  return "" if value is None else f"{value / 1e6:,.1f} M"


def _size(row: dict[str, Any]) -> str:
  pixels = row["image_size"]
  if row["tokens"]:
    return f"{row['tokens']} tokens"
  if row["frames"]:
    return f"{row['frames']}x{pixels}x{pixels}"
  return str(pixels) if isinstance(pixels, int) else "x".join(map(str, pixels))


def _measure(row: dict[str, Any]) -> str:
  """Returns the paper's accuracy, box AP or mean IoU, in percent."""
  named = {"paper_top1": "top-1", "paper_ap": "AP", "paper_miou": "mIoU"}
  return " ".join(f"{row[key]} {name}" for key, name in named.items() if row[key] is not None)


def table(found: Sequence[dict[str, Any]]) -> rich_table.Table:
  """Returns the rows as a table to print, with the differences from the papers."""
  shown = rich_table.Table(box=None, header_style="bold")
  for column in (
    "model",
    "input",
    "parameters",
    "paper",
    "",
    "multiply-adds",
    "paper",
    "",
    "measure",
    "arXiv",
  ):
    shown.add_column(column, justify="left" if column in ("model", "arXiv") else "right")
  for row in found:
    shown.add_row(
      row["name"],
      _size(row),
      f"{row['params']:,}",
      _millions(row["paper_params"]),
      _difference(row["params"], row["paper_params"]),
      _millions(row["madds"]),
      _millions(row["paper_madds"]),
      _difference(row["madds"], row["paper_madds"]),
      _measure(row),
      row["paper"] or "",
    )
  return shown


def main(arguments: Sequence[str]) -> int:
  """Prints the table, or JSON and nothing else; returns the exit status."""
  parser = argparse.ArgumentParser(prog="python -m effnets.zoo", description=__doc__.split("\n")[0])
  parser.add_argument("pattern", nargs="?", default="*", help="glob of model names, such as 'eff*'")
  parser.add_argument("--json", action="store_true", help="one JSON list on standard output")
  parsed = parser.parse_args(arguments)
  try:
    found = rows(parsed.pattern)
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  if parsed.json:
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
  else:
    rich_console.Console(width=None if sys.stdout.isatty() else 140).print(table(found))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
