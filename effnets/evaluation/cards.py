"""A reproduction card as Markdown, and its pictures, from the values of single seeds.

A card is a dict, as JSON holds it:

  title, claim, setting, command   of the paper, and what was measured here
  seeds, seconds, machine          of the runs; one number of seconds a seed
  paper                            `command`, and its `table` as rows
  differences, tried               sentences; `tried` may be left out
  sections                         further ones: a `title` with a `text`, a `table`, or both
  more                             further parts: a `title` with a `claim` and a `setting` of its
                                   own, or with a `text`; one without a claim is not judged

The card and each of `more` is a part, which has

  figure        what is compared
  arms          name -> one value a seed
  comparisons   pairs of arms, the better one first
  decisive      how many comparisons, from the first, the claim needs; 1 if not given
  columns       title -> arm -> text: what else it tells of an arm; may be left out
  map           instead of `arms`: `axes` (names of rows and columns), `values` (of the columns,
                numbers) and `cells` (row -> column -> one value a seed). Then an arm is a row, and
                its value at a seed that of the best column: what the comparisons compare
  seeds         if they are not the card's
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnets.evaluation import comparison

Part = Mapping[str, Any]


def render(card: Part) -> str:
  """Returns the card as Markdown."""
  lines = [f"# {card['title']}", "", f"**Claim.** {card['claim']}", ""]
  lines += [f"**Measured here.** {card['setting']}", "", "```", card["command"], "```", ""]
  pictures = iter(picture_names(card))
  lines += _compared(card, card["seeds"], next(pictures))
  for part in card.get("more", ()):
    lines += [f"## {part['title']}", ""]
    if "claim" in part:
      lines += [f"**Claim.** {part['claim']}", "", f"**Measured here.** {part['setting']}", ""]
      lines += _compared(part, card["seeds"], next(pictures))
    else:
      lines += [part["text"], "", *_compared(part, card["seeds"])]
  seconds = card["seconds"]
  where = ", ".join(f"{key} {value}" for key, value in card["machine"].items())
  lines += [f"Wall time: {min(seconds):.0f} to {max(seconds):.0f} s a seed, on {where}."]
  if card.get("tried"):
    lines += ["", "## What was tried", "", *(f"- {text}" for text in card["tried"])]
  paper = card["paper"]
  lines += ["", "## In the paper", "", "```", paper["command"], "```", "", *_rows(paper["table"])]
  for section in card.get("sections", ()):
    lines += ["", f"## {section['title']}"]
    lines += ["", section["text"]] if section.get("text") else []
    lines += ["", *_rows(section["table"])] if section.get("table") else []
  lines += ["", "## What differs", "", *(f"- {text}" for text in card["differences"]), ""]
  return "\n".join(lines)


def plan_section(plans: Sequence[Part]) -> dict[str, Any]:
  """Returns the section of a card that tells what its plans say.

  plans: what `--mode=plan` wrote, each with its `command`, `versions` and `plans`.
  """
  rows = [["step", "slice", "a chip's memory", "at the roofline", "recipe", "messages a step"]]
  for made in plans:
    for plan in made["plans"]:
      memory = plan["memory_per_chip"]
      held = f"{memory['total'] / 2**30:.1f} of {memory['capacity'] / 2**30:.0f} GiB"
      what, _, size = planned_example(plan)
      name = f"{plan['model']}, {size}"
      name += "" if "tokens" in plan else f", batch norm {plan['batch_norm']}"
      name += f", remat {plan['remat']}" if plan.get("remat", "none") != "none" else ""
      name = f"{plan['stage']}: {name}" if plan["stage"] else name
      sent = "not known"
      if plan["collectives"] is not None:
        sent = ", ".join(f"{cost['count']} {kind}" for kind, cost in plan["collectives"].items())
      if plan["fits"]:
        roof, hours = plan["roofline"], plan["recipe"]
        speed = f"{roof['images_per_second_per_chip']:,.0f} {what}/s/chip ({roof['bound']})"
        spent = f"{plan['steps']:,} steps, {hours['hours']:,.1f} h, "
        spent += f"{hours['chip_hours']:,.0f} chip-hours at {hours['fraction']:.0%}"
        if "search" in plan:
          spent += f"; {plan['search']['children']:,} children, "
          spent += f"{plan['search']['chip_hours']:,.0f} chip-hours"
      else:
        held, speed, spent = plan["reason"], "does not fit", ""
      rows.append([name, plan["topology"], held, speed, spent, sent])
  versions = ", ".join(f"{name} {version}" for name, version in plans[0]["versions"].items())
  commands = "\n".join(made["command"] for made in plans)
  text = f"The paper's step, compiled for slices that were not there ({versions}):\n\n"
  return {
    "title": "On a TPU pod, by plan",
    "text": f"{text}```\n{commands}\n```",
    "table": rows,
  }


def planned_example(plan: Part) -> tuple[str, str, str]:
  """Returns what a plan's examples are called, one of them, and its size, in words.

  >>> planned_example({"image_size": 64, "frames": 12})
  ('clips', 'a clip', '64 px, 12 frames')
  """
  if "tokens" in plan:
    return "texts", "a text", f"{plan['tokens']} tokens"
  if "frames" in plan:
    return "clips", "a clip", f"{plan['image_size']} px, {plan['frames']} frames"
  return "images", "an image", f"{plan['image_size']} px"


def picture_names(card: Part) -> list[str]:
  """Returns the file names of a card's pictures, one for each part with a claim, in order.

  >>> picture_names({"claim": "a", "more": [{"claim": "b"}, {"text": "c"}]})
  ['results.png', 'results_1.png']
  """
  claims = sum("claim" in part for part in card.get("more", ()))
  return ["results.png", *(f"results_{number}.png" for number in range(1, claims + 1))]


def draw(card: Part, folder: pathlib.Path) -> None:
  """Draws the pictures of a card into `folder`."""
  parts = [card, *(part for part in card.get("more", ()) if "claim" in part)]
  for part, name in zip(parts, picture_names(card), strict=True):
    chart(part, folder / name)


def chart(part: Part, path: pathlib.Path) -> None:
  """Draws a part as a PNG: every seed of every arm with means and standard errors, or a map."""
  if "map" not in part:
    comparison.dots(part["arms"], path, label=part["figure"])
    return
  cells = {
    (row, column): values
    for row, of_row in part["map"]["cells"].items()
    for column, values in of_row.items()
  }
  comparison.heat_map(cells, path, label=part["figure"], axes=tuple(part["map"]["axes"]))


def arms_of(part: Part) -> dict[str, list[float]]:
  """Returns what is compared, one value a seed: of a map, the value of each row's best column.

  Of columns that are equally good it is the mean.
  """
  if "map" not in part:
    return part["arms"]
  values, found = np.asarray(part["map"]["values"], np.float64), {}
  for name, columns in part["map"]["cells"].items():
    by_seed = np.transpose(list(columns.values()))
    found[name] = [float(values[seed == seed.max()].mean()) for seed in by_seed]
  return found


def _compared(part: Part, seeds: Sequence[int], picture: str = "") -> list[str]:
  """Returns the lines of a part: tables, picture, differences and, if it has a claim, verdict."""
  shown = lambda what: [f"![{what}]({picture})", ""] if picture else []  # noqa: E731
  arms = [*_arms(part, part.get("seeds", seeds)), ""]
  if "map" in part:
    lines = [*_map(part), "", *shown("Every cell"), *arms]
  else:
    lines = [*arms, *shown("Every seed of every arm")]
  lines += [*_comparisons(part), ""]
  return lines + ([_verdict(part), ""] if "claim" in part else [])


def _rows(rows: Sequence[Sequence[Any]]) -> list[str]:
  """Returns the lines of a Markdown table; the first row is the header."""
  lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
  return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _map(part: Part) -> list[str]:
  """Returns the table of a map's cells, the best of each row in bold."""
  cells, axes = part["map"]["cells"], part["map"]["axes"]
  rows = [[f"{part['figure']}: {axes[0]} by {axes[1]}", *next(iter(cells.values()))]]
  for name, columns in cells.items():
    best = max(columns, key=lambda column: np.mean(columns[column]))
    texts = {column: comparison.shown(values) for column, values in columns.items()}
    rows.append([name, *(f"**{t}**" if c == best else t for c, t in texts.items())])
  return _rows(rows)


def _form(part: Part) -> str:
  return ".1f" if "map" in part else ".2%"


def _arms(part: Part, seeds: Sequence[int]) -> list[str]:
  columns, form = part.get("columns", {}), _form(part)
  figure = f"best {part['map']['axes'][1]}" if "map" in part else part["figure"]
  rows = [["arm", *columns, f"{figure}, mean ± s.e.", *(f"seed {seed}" for seed in seeds)]]
  for name, values in arms_of(part).items():
    cells = (cells.get(name, "") for cells in columns.values())
    each = (f"{value:{form}}" for value in values)
    rows.append([name, *cells, comparison.shown(values, form), *each])
  return _rows(rows)


def _comparisons(part: Part) -> list[str]:
  form = _form(part)
  rows = [["comparison, seed by seed", "mean difference ± s.e.", "in standard errors"]]
  for better, worse in part["comparisons"]:
    mean, error = _difference(part, better, worse)
    times = f"{mean / error:+.1f}" if error else "all equal"
    rows.append([f"{better} over {worse}", f"{mean:+{form}} ± {error:{form}}", times])
  return _rows(rows)


def _difference(part: Part, better: str, worse: str) -> tuple[float, float]:
  """Returns mean and standard error of the differences, seed by seed."""
  arms = arms_of(part)
  return comparison.mean_and_error(np.subtract(arms[better], arms[worse]))


def _verdict(part: Part) -> str:
  decisive = part["comparisons"][: part.get("decisive", 1)]
  held = [mean > 2 * error for mean, error in (_difference(part, *pair) for pair in decisive)]
  if all(held):
    verdict = "reproduced"
  elif any(held):
    verdict = f"reproduced in part, {sum(held)} of {len(held)}"
  else:
    verdict = "not reproduced"
  which = "first comparison" if len(held) == 1 else f"first {len(held)} comparisons"
  return f"The claim is **{verdict}** at this scale ({which}, more than two s.e.)."
