"""`--mode=robustness`: how a model bears corrupted, perturbed and attacked pictures."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from rich import console as rich_console

from effnets import configuration, data, errors, training, workdirs
from effnets.augment.corruptions import sequences as sequences_lib
from effnets.augment.corruptions import tables
from effnets.commands import robustness_chart as chart
from effnets.commands import robustness_report as report
from effnets.commands import robustness_settings as settings_lib
from effnets.commands import robustness_suites as suites
from effnets.commands.robustness_settings import KEY, Settings
from effnets.commands.trained import describe, open_classifier
from effnets.data import photos as photos_lib
from effnets.evaluation import robustness as figures_lib


def robustness(config: Any, workdir: str) -> None:
  """Measures a model on the suites of `config.robustness`, prints tables and writes them down.

  The model is that of `trained.open_model`. Raw and normalised figures go to `robustness.json` in
  `workdir`, a chart to `plots/robustness.png`, one picture under every corruption to
  `plots/corruptions.png`.

  Raises: UserError for a wrong setting, or if there is no such model, data or folder.
  """
  configuration.check(config)
  settings = settings_lib.read(config.robustness)
  _check_pictures(config.robustness, settings)
  films = _films(config.robustness, settings)
  trained = open_classifier(config, workdir, mode="robustness")
  examiner = suites.Examiner(trained)
  source = _source(examiner, config.robustness, settings)
  content = {**trained.about, **_measured(examiner, config.robustness, settings, source, films)}
  if jax.process_index():
    return
  workdirs.write(workdir, settings_lib.FILE, json.dumps(content, indent=2) + "\n")
  plots = pathlib.Path(workdir) / "plots"
  chart.draw(content, plots / "robustness.png", title=describe(trained, workdir))
  if content.get("corruptions", {}).get("generated"):
    _draw_sheet(config.robustness, settings, source, content, plots / "corruptions.png")
  console = rich_console.Console()
  for shown in (describe(trained, workdir), *report.tables_of(content)):
    console.print(shown, highlight=False, soft_wrap=isinstance(shown, str))


def _draw_sheet(
  options: Any,
  settings: Settings,
  source: data.Source,
  content: Mapping[str, Any],
  path: pathlib.Path,
) -> None:
  """Draws the first picture and what has been made of it."""
  view = _generated(options, settings, source)
  rows = {}
  for name in content["corruptions"]["errors"]:
    views = [view(name, severity) for severity in settings.severities]
    rows[name] = [views[0].clean(0)["image"], *(made[0]["image"] for made in views)]
  chart.sheet(rows, ["clean", *map(str, settings.severities)], path)


def _check_pictures(options: Any, settings: Settings) -> None:
  """Raises UserError if there is not one corrupted picture to look at."""
  names = settings.corruptions
  if "corruptions" not in settings.suites:
    return
  if options.folder:
    where = f"{KEY}.folder={options.folder!r}"
    there = any(
      data.folder.below(options.folder, name, str(severity))
      for name in names
      for severity in settings.severities
    )
  else:
    where = f"{KEY}.corruptions"
    there = bool(options.frost) or set(names) != {"frost"}
  if not there:
    raise errors.UserError(
      f"{where}: there are no pictures of {', '.join(names)}; expected "
      f"PATH/CORRUPTION/SEVERITY/CLASS/IMAGE, or photos for frost in {KEY}.frost."
    )


def _films(options: Any, settings: Settings) -> dict[str, data.films.Films]:
  """Returns the films of the perturbations of which there are some.

  Raises: UserError if films are asked for and there is none.
  """
  if not options.films or "sequences" not in settings.suites:
    return {}
  key = f"{KEY}.films"
  found = {
    name: data.films.published(options.films, name, difficulty=options.difficulty, key=key)
    for name in settings.sequences
  }
  films = {name: of.subset(options.examples) for name, of in found.items() if of is not None}
  if not films:
    raise errors.UserError(
      f"{key}={options.films!r}: there are no films of {', '.join(settings.sequences)}; expected "
      "PATH/PERTURBATION/CLASS/FILM."
    )
  return films


def _source(examiner: suites.Examiner, options: Any, settings: Settings) -> data.Source | None:
  """Returns the pictures that are changed; None if the suites need none."""
  given = {"corruptions": options.folder, "sequences": options.films, "photos": True}
  if all(given.get(suite) for suite in settings.suites):
    return None
  config = examiner.trained.config
  source = training.inputs.evaluation(config, "test")
  _check_classes(examiner, source, f"config.data.source={config.data.source!r}")
  return data.corrupted.subset(source, options.examples)


def _measured(
  examiner: suites.Examiner,
  options: Any,
  settings: Settings,
  source: data.Source | None,
  films: Mapping[str, data.films.Films],
) -> dict[str, Any]:
  content = {}
  if source is not None:
    content["source"] = source.name
    content["clean"] = examiner.judge(source).figures()
  if "corruptions" in settings.suites:
    content["corruptions"] = _corruptions(examiner, options, settings, source, content.get("clean"))
  if "sequences" in settings.suites:
    content["sequences"] = _sequences(examiner, options, settings, source, films)
  if "attacks" in settings.suites:
    top1 = suites.attacked(
      examiner,
      source,
      settings.attacks,
      settings.epsilons,
      steps=options.attack_steps,
      seed=options.seed,
    )
    content["attacks"] = {
      "top1": top1,
      "steps": options.attack_steps,
      "step": "2.5 epsilon / steps",
    }
  if "photos" in settings.suites:
    content["photos"] = _photos(examiner, options, settings)
  if options.imagenet_a:
    folder = data.corrupted.by_class(options.imagenet_a, key=f"{KEY}.imagenet_a")
    content["imagenet_a"] = suites.imagenet_a(examiner, folder)
  if options.stylized:
    key = f"{KEY}.stylized"
    folder = data.corrupted.by_class(options.stylized, key=key)
    _check_classes(examiner, folder, f"{key}={options.stylized!r}")
    content["stylized"] = examiner.judge(folder).figures()
  return content


def _check_classes(examiner: suites.Examiner, source: data.Source, what: str) -> None:
  classes = examiner.trained.task.num_classes
  if source.num_classes != classes:
    raise errors.UserError(
      f"{what} has {source.num_classes} classes, the model {classes}; measure it on its own "
      f"classes, or with {KEY}.suites=photos, which needs none."
    )


def _corruptions(
  examiner: suites.Examiner,
  options: Any,
  settings: Settings,
  source: data.Source | None,
  clean: Mapping[str, float] | None,
) -> dict[str, Any]:
  if options.folder:
    key = f"{KEY}.folder"

    def view(name, severity):
      found = data.corrupted.published(options.folder, name, severity, key=key)
      if found is not None:
        _check_classes(examiner, found, f"{key}={options.folder!r}, {name} {severity}")
        found = data.corrupted.subset(found, options.examples)
      return found

    how = {"pictures": options.folder, "generated": False}
  else:
    view = _generated(options, settings, source)
    side = source.image_size or options.release
    how = {"pictures": source.name, "generated": True, "table": tables.table_size(side, side)}
  names, severities = settings.corruptions, settings.severities
  found = suites.corruption_errors(examiner, view, names, severities)
  return {**how, **found, **_aggregated(found["errors"], examiner, settings, clean)}


def _generated(options: Any, settings: Settings, source: data.Source) -> Any:
  """Returns (corruption, severity) -> pictures of `source`; None for frost without photos."""
  photos = ()
  if options.frost and "frost" in settings.corruptions:
    side = source.image_size or options.release
    photos = data.corrupted.frost_photos(options.frost, side, key=f"{KEY}.frost")

  def view(name, severity):
    if name == "frost" and not photos:
      return None
    how = {"seed": options.seed, "release": options.release, "frost": photos}
    return data.corrupted.Corrupted(source, name, severity, **how)

  return view


def _aggregated(
  by: Mapping[str, Mapping[int, float]],
  examiner: suites.Examiner,
  settings: Settings,
  clean: Mapping[str, float] | None,
) -> dict[str, Any]:
  """Returns the figures that are made of the errors; those that cannot be made are None."""
  counted = {name: by[name] for name in tables.CORRUPTIONS if name in by} or by
  missing = figures_lib.missing(
    by, {name: dict.fromkeys(tables.SEVERITIES, 0.0) for name in tables.CORRUPTIONS}
  )
  result = {
    "mean_error": figures_lib.mean_error(counted),
    "complete": not missing,
    "missing": missing,
    "reference": None,
    "corruption_errors": None,
    "mce": None,
    "relative_mce": None,
  }
  if settings.reference and "corruptions" in settings.reference:
    reference = settings.reference["corruptions"]["errors"]
    reference_clean = settings.reference.get("clean", {}).get("error")
    result["reference"] = "config.robustness.reference"
  elif _like_alexnet(examiner, settings):
    reference, reference_clean = figures_lib.ALEXNET_ERRORS, figures_lib.ALEXNET_CLEAN_ERROR
    result["reference"] = "AlexNet"
  else:
    return result
  ratios = figures_lib.corruption_errors(counted, reference=reference)
  result["corruption_errors"], result["mce"] = ratios, _mean(ratios)
  if clean and reference_clean is not None:
    relative = figures_lib.corruption_errors(
      counted, reference=reference, clean=clean["error"], reference_clean=reference_clean
    )
    result["relative_mce"] = _mean(relative)
  return result


def _sequences(
  examiner: suites.Examiner,
  options: Any,
  settings: Settings,
  source: data.Source | None,
  films: Mapping[str, data.films.Films],
) -> dict[str, Any]:
  if films:
    pictures, view = options.films, films.get
  else:
    part = data.corrupted.subset(source, options.sequence_examples)
    pictures = part.name

    def view(name):
      return data.corrupted.Sequences(
        part, name, seed=options.seed, release=options.release, difficulty=options.difficulty
      )

  found = suites.sequences(examiner, view, settings.sequences, difficulty=options.difficulty)
  counted = [name for name in found["flip_probability"] if name in sequences_lib.PERTURBATIONS]
  missing = [name for name in sequences_lib.PERTURBATIONS if name not in counted]
  result = {
    "pictures": pictures,
    "generated": not films,
    "difficulty": options.difficulty,
    **found,
    "mean_flip_probability": _mean(_only(found["flip_probability"], counted)),
    "mean_top5_distance": _mean(_only(found["top5_distance"], counted)),
    "complete": not missing,
    "missing": missing,
    "reference": None,
    "flip_rates": None,
    "mfr": None,
    "mt5d": None,
  }
  other = (settings.reference or {}).get("sequences")
  if other:
    flips, distances = other["flip_probability"], other["top5_distance"]
    result["reference"] = "config.robustness.reference"
  elif _like_alexnet(examiner, settings) and options.difficulty == 1:
    flips, distances = figures_lib.ALEXNET_FLIPS, None
    result["reference"] = "AlexNet"
  else:
    return result
  rates = figures_lib.ratios(_only(found["flip_probability"], counted), flips)
  result["flip_rates"], result["mfr"] = rates, _mean(rates)
  if distances:
    result["mt5d"] = _mean(figures_lib.ratios(_only(found["top5_distance"], counted), distances))
  return result


def _like_alexnet(examiner: suites.Examiner, settings: Settings) -> bool:
  """Returns whether AlexNet's published figures are what a model's are divided by."""
  return not settings.reference and examiner.trained.task.num_classes in (1000, 1001)


def _photos(examiner: suites.Examiner, options: Any, settings: Settings) -> dict[str, Any]:
  """Returns how often the embedded photos are named otherwise than before they were corrupted."""
  source = photos_lib.Photos()
  before = examiner.judge(source).predicted
  view = _generated(options, settings, source)
  names, severities = settings.corruptions, settings.severities
  found = suites.corruption_errors(examiner, view, names, severities, labels=before)
  by = found["errors"]
  return {"changed": by, "mean_changed": figures_lib.mean_error(by) if by else None}


def _only(values: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
  return {name: values[name] for name in names}


def _mean(values: Mapping[str, float]) -> float | None:
  return float(np.mean(list(values.values()))) if values else None
