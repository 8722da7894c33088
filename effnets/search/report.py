"""What a search leaves: best.json, a picture of its front, and one HTML file with all of it."""

import base64
import html
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from effnets import workdirs
from effnets.search import study as study_lib
from effnets.search.study import Record, State

BEST, FRONT, REWARDS, PAGE = "best.json", "plots/pareto.png", "plots/rewards.png", "report.html"


def write(
  workdir: str | pathlib.Path,
  space: Any,
  records: Sequence[Record],
  *,
  title: str,
  gain: str,
  cost: str,
  top: int,
) -> dict[str, Any]:
  """Writes the files of the module into `workdir` and returns what best.json holds.

  title: of the page. gain, cost: values, the axes of the front. top: how many networks are named.
  """
  path = pathlib.Path(workdir)
  content = summary(space, records, gain=gain, cost=cost, top=top)
  workdirs.write(path, BEST, json.dumps(content, indent=2) + "\n")
  pictures = {}
  for name, draw in ((FRONT, _draw_front), (REWARDS, _draw_rewards)):
    buffer = io.BytesIO()
    draw(records, buffer, gain, cost)
    pictures[name] = buffer.getvalue()
    with workdirs.writing(path, name, binary=True) as file:
      file.write(pictures[name])
  workdirs.write(path, PAGE, _page(title, content, records, pictures))
  return content


def about(space: Any) -> dict[str, str]:
  """Returns by what `network.read` knows a space again."""
  return {
    "space": space.name,
    "space_options": json.dumps(space.settings, sort_keys=True),
    "space_version": space.version,
  }


def write_best(
  workdir: pathlib.Path,
  space: Any,
  tokens: Sequence[int],
  reward: float,
  values: Mapping[str, float],
) -> None:
  """Writes the best.json of an experiment that ends with one network."""
  top = {"tokens": list(tokens), "reward": reward, "values": dict(values)}
  workdirs.write(workdir, BEST, json.dumps({"space": about(space), "top": [top]}) + "\n")


def summary(
  space: Any, records: Sequence[Record], *, gain: str, cost: str, top: int
) -> dict[str, Any]:
  """Returns the content of best.json: the space, the best networks, the front, the counts."""

  def network(record: Record) -> dict[str, Any]:
    return {
      "trial": record.number,
      "reward": record.reward,
      "values": dict(record.values),
      "tokens": list(record.tokens),
      "choices": space.values(record.tokens),
    }

  trained = [r for r in records if r.of is None]
  return {
    "space": about(space),
    "top": [network(record) for record in study_lib.ranking(records, cost)[:top]],
    "front": [network(record) for record in study_lib.front(records, gain, cost)],
    "trials": len(records),
    "trained": sum(r.state is State.COMPLETE for r in trained),
    "duplicates": len(records) - len(trained),
    "failed": sum(r.state in (State.FAILED, State.STALE) for r in records),
    "infeasible": sum(r.state is State.INFEASIBLE for r in records),
    "history": study_lib.history(records),
  }


def _figure(width: float = 6.4, height: float = 4.2):
  # The object interface: no display, no global figure to leak.
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  made = figure.Figure(figsize=(width, height), layout="constrained")
  backend_agg.FigureCanvasAgg(made)
  return made, made.subplots()


def _draw_front(records: Sequence[Record], file: Any, gain: str, cost: str) -> None:
  made, axes = _figure()
  done = [r for r in records if r.state is State.COMPLETE and {gain, cost} <= r.values.keys()]
  points = axes.scatter(
    [r.values[cost] for r in done],
    [r.values[gain] for r in done],
    c=[r.number for r in done],
    s=14,
    cmap="viridis",
  )
  front = study_lib.front(records, gain, cost)
  axes.step(
    [r.values[cost] for r in front],
    [r.values[gain] for r in front],
    where="post",
    color="#D55E00",
    label="best at its cost",
  )
  for record in study_lib.ranking(records, cost)[:1]:
    if {gain, cost} <= record.values.keys():
      place = [record.values[cost]], [record.values[gain]]
      axes.scatter(*place, marker="*", s=160, color="#D55E00", label="highest reward")
  axes.set(xlabel=cost, ylabel=gain)
  made.colorbar(points, label="trial")
  if done:
    axes.legend(loc="lower right")
  made.savefig(file, dpi=120, format="png")


def _draw_rewards(records: Sequence[Record], file: Any, gain: str, cost: str) -> None:
  del gain, cost
  made, axes = _figure()
  done = [r for r in records if r.reward is not None]
  axes.plot([r.number for r in done], [r.reward for r in done], ".", ms=4, color="#56B4E9")
  best, mean, bests, means = float("-inf"), None, [], []
  for record in done:
    best = max(best, record.reward)
    mean = record.reward if mean is None else 0.9 * mean + 0.1 * record.reward
    bests.append(best)
    means.append(mean)
  axes.plot([r.number for r in done], means, color="#0072B2", label="running mean")
  axes.plot([r.number for r in done], bests, color="#D55E00", label="best so far")
  axes.set(xlabel="trial", ylabel="reward")
  if done:
    axes.legend(loc="lower right")
  made.savefig(file, dpi=120, format="png")


_STYLE = (
  "body{font:15px/1.45 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
  "table{border-collapse:collapse;margin:1em 0;font-size:13px}td,th{padding:.25em .7em;"
  "border-bottom:1px solid #ccc;text-align:right}td.t,th.t{text-align:left;word-break:break-all}"
  "img{max-width:48%}"
)


def _shown(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"
  return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _rows(networks: Sequence[Mapping[str, Any]]) -> str:
  # Others, such as the weights of edges, are in best.json.
  plain = [item for network in networks for item in network["values"].items()]
  names = list(dict.fromkeys(name for name, value in plain if isinstance(value, int | float)))
  head = "".join(f"<th>{html.escape(n)}</th>" for n in ("trial", "reward", *names))
  lines = [f"<table><tr>{head}<th class=t>tokens</th></tr>"]
  for network in networks:
    cells = [network["trial"], network["reward"], *(network["values"].get(n, "") for n in names)]
    row = "".join(f"<td>{_shown(cell)}</td>" for cell in cells)
    tokens = " ".join(map(str, network["tokens"]))
    lines.append(f"<tr>{row}<td class=t>{tokens}</td></tr>")
  return "".join(lines) + "</table>"


def _page(
  title: str,
  content: Mapping[str, Any],
  records: Sequence[Record],
  pictures: Mapping[str, bytes],
) -> str:
  images = "".join(
    f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    for name, data in pictures.items()
  )
  counts = ", ".join(
    f"{content[name]} {name}"
    for name in ("trials", "trained", "duplicates", "failed", "infeasible")
  )
  failures = [r for r in records if r.error]
  failed = "".join(
    f"<tr><td>{r.number}</td><td>{r.state}</td><td class=t>{html.escape(r.error)}</td></tr>"
    for r in failures[:200]
  )
  space = content["space"]
  return (
    f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
    f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
    f"<p>Space {html.escape(space['space'])}, version {space['space_version']}; {counts}.</p>"
    f"{images}<h2>Best</h2>{_rows(content['top'])}<h2>Front</h2>{_rows(content['front'])}"
    + (f"<h2>Not trained to the end</h2><table>{failed}</table>" if failed else "")
    + "</html>\n"
  )
