"""The figures of `--mode=robustness` as tables for people."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box, table

from effnets.augment.corruptions import tables


def tables_of(content: Mapping[str, Any]) -> list[Any]:
  """Returns what is printed of the figures: a table a suite, and what is missing."""
  shown = []
  if "clean" in content:
    clean = content["clean"]
    shown.append(
      f"{content['source']}: error {_percent(clean['error'])} %, calibration error "
      f"{clean['calibration_error']:.4f}, {clean['examples']} examples"
    )
  if "corruptions" in content:
    shown += _corruption_report(content["corruptions"])
  if "sequences" in content:
    shown += _sequence_report(content["sequences"])
  if "attacks" in content:
    rows = content["attacks"]["top1"]
    epsilons = list(next(iter(rows.values())))
    made = _table(["attack", *map("ε {:g}".format, epsilons)])
    for name, by in rows.items():
      made.add_row(name, *(_percent(value) for value in by.values()))
    shown += ["\ntop-1 [%] after an attack of at most ε levels of 255", made]
  if "photos" in content:
    shown += ["\nembedded photos: named otherwise [%]", _by_severity(content["photos"]["changed"])]
  for key, title in (("imagenet_a", "ImageNet-A"), ("stylized", "stylized pictures")):
    if key in content:
      shown.append(f"{title}: error {_percent(content[key]['error'])} %")
  return shown


def _corruption_report(found: Mapping[str, Any]) -> list[Any]:
  ratios = found["corruption_errors"]
  generated = ", approximately as published" if found["generated"] else ""
  title = f"\n{found['pictures']}, corrupted{generated}: error [%]"
  made = _by_severity(found["errors"], {"CE [%]": ratios} if ratios else {})
  end = f"mean error {_percent(found['mean_error'])} %, unnormalised"
  if found["mce"] is not None:
    end += f"; mCE {_percent(found['mce'])} %{_mark(found)}"
    if found["relative_mce"] is not None:
      end += f", relative {_percent(found['relative_mce'])} %"
    end += f", against {found['reference']}"
  if not found["complete"]:
    gaps = (
      name if len(by) == len(tables.SEVERITIES) else f"{name} {','.join(map(str, by))}"
      for name, by in found["missing"].items()
    )
    end += f"\nincomplete, not measured: {'; '.join(gaps)}"
    if "frost" in found["missing"] and found["generated"]:
      end += "\n(frost takes photos: --config.robustness.frost=FOLDER)"
  return [title, made, end]


def _by_severity(
  by_name: Mapping[str, Mapping[int, float]],
  more: Mapping[str, Mapping[str, float]] | None = None,
) -> table.Table:
  severities = sorted({severity for by in by_name.values() for severity in by})
  more = more or {}
  made = _table(["corruption", *map(str, severities), "mean", *more])
  for name, by in by_name.items():
    cells = [_percent(by.get(severity)) for severity in severities]
    extra = (_percent(values.get(name)) for values in more.values())
    made.add_row(name, *cells, _percent(np.mean(list(by.values()))), *extra)
  return made


def _sequence_report(found: Mapping[str, Any]) -> list[Any]:
  counts, rates = found["sequences"], found["flip_rates"]
  title = f"\n{found['pictures']}, perturbed"
  columns = ["perturbation", "sequences", "flips [%]", "top-5 distance"]
  made = _table([*columns, *(["FR [%]"] if rates else [])])
  for name, flips in found["flip_probability"].items():
    extra = [_percent(rates.get(name))] if rates else []
    distance = f"{found['top5_distance'][name]:.3f}"
    made.add_row(name, str(counts[name]), _percent(flips), distance, *extra)
  end = f"mean flip probability {_percent(found['mean_flip_probability'])} %"
  if found["mfr"] is not None:
    end += f"; mFR {_percent(found['mfr'])} %{_mark(found)}, against {found['reference']}"
  if found["mt5d"] is not None:
    end += f"; mT5D {_percent(found['mt5d'])} %"
  if not found["complete"]:
    end += f"\nincomplete, not measured: {', '.join(found['missing'])}"
  return [title, made, end]


def _mark(found: Mapping[str, Any]) -> str:
  return "" if found["complete"] else " (incomplete)"


def _table(columns: list[str]) -> table.Table:
  made = table.Table(box=box.SIMPLE_HEAD)
  for index, column in enumerate(columns):
    made.add_column(column, justify="right" if index else "left", no_wrap=True)
  return made


def _percent(value: float | None) -> str:
  return "" if value is None else f"{100 * value:.1f}"
