"""Lists the search spaces, or describes one: `python -m effnets.search [SPACE]`."""

import argparse
import sys
from collections.abc import Sequence

from rich import box, table
from rich import console as rich_console

from effnets import errors
from effnets.search import spaces


def overview() -> table.Table:
  """Returns a table of all spaces: decisions, points as tokens, and what was found in them."""
  shown = table.Table(box=box.SIMPLE_HEAD)
  shown.add_column("space", no_wrap=True)
  shown.add_column("decisions", justify="right")
  shown.add_column("points", justify="right", no_wrap=True)
  shown.add_column("published networks in it")
  for name in spaces.names():
    made = spaces.create(name)
    count = f"{made.count_raw():.2e}"
    shown.add_row(name, str(len(made)), count, ", ".join(made.published))
  return shown


def description(name: str) -> table.Table:
  """Returns a table of the decisions of one space, with their choices.

  Raises: UserError for an unknown name.
  """
  made = spaces.create(name)
  shown = table.Table(
    box=box.SIMPLE_HEAD,
    title=f"{name}, version {made.version}: {made.count_raw():,} points",
    title_justify="left",
  )
  for column in ("decision", "choices"):
    shown.add_column(column, overflow="fold")
  for decision in made.decisions:
    shown.add_row(decision.name, ", ".join(map(str, decision.choices)))
  return shown


def main(arguments: Sequence[str]) -> int:
  """Prints one of the two tables; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m effnets.search", description=__doc__.split("\n")[0]
  )
  parser.add_argument("space", nargs="?", default="", help="name of a space; default: all")
  name = parser.parse_args(arguments).space
  try:
    rich_console.Console().print(description(name) if name else overview())
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
