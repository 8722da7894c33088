"""Measures AdvProp at embedded scale: against plain and adversarial training, attackers and widths.

`python experiments/advprop/measure.py`

Trains every arm at five seeds as a sweep (`get_config`), then looks at corrupted test digits with
each network (`corrupted`) and writes `results.json` here. Resumable: finished runs are not run
again.
"""

import json
import pathlib

import ml_collections
import numpy as np

from effnets import card, configuration, data, models, parallel, recipes, training
from effnets.augment.corruptions import tables
from effnets.commands import robustness_suites as suites
from effnets.evaluation import robustness
from effnets.pipelines import sweep

RUNS = pathlib.Path("runs/cards/advprop")
SEEDS = tuple(range(5))
LABELS, STEPS, EPSILON = 100, 300, 16.0
# In rising order; the ablations are at the middle one.
WIDTHS = {"small": 0.5, "middle": 1.0, "large": 1.5}
SEVERITIES, DIGITS = (1, 3, 5), 200

PLAIN = {"task": {"name": "classification"}, "model": {"norm_sets": 1}}
SHARED = {"model": {"norm_sets": 1}}
STRONG = {"adversary": {"steps": 5, "step": EPSILON / 4}}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the sweep's config; it takes no argument."""
  configuration.arguments(arg)
  config = configuration.load("configs/advprop.py")
  config.data.options.labels = LABELS
  config.train.steps = STEPS
  config.adversary.update({"epsilon": EPSILON, "step": EPSILON, "steps": 1})
  config.evaluation.every_percent = 100.0
  config.checkpoint.update({"every_percent": 100.0, "keep": 1})
  config.tensorboard = False
  runs = {"shared_middle": SHARED, "strong_middle": STRONG}
  for overrides in runs.values():
    overrides.setdefault("model", {})["width"] = WIDTHS["middle"]
  for name, width in WIDTHS.items():
    for method, overrides in (("plain", PLAIN), ("advprop", {})):
      model = {**overrides.get("model", {}), "width": width}
      runs[f"{method}_{name}"] = {**overrides, "model": model}
  config.pipeline = recipes.sweep(runs=runs, seeds=SEEDS)
  return config.lock()


class Held:
  """A source read once and kept."""

  def __init__(self, source: data.Source):
    self.name, self.image_size = source.name, source.image_size
    self.num_classes, self.class_names = source.num_classes, source.class_names
    self._examples = [source[index] for index in range(len(source))]

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> data.sources.Example:
    return self._examples[index]


def corrupted(config: ml_collections.ConfigDict) -> dict[str, list[float]]:
  """Returns by run one mean top-1 a seed over corrupted test digits, as `--mode=robustness` does.

  Every network is looked at as a plain one: what AdvProp trains beside it is left out.
  """
  names = [name for name in tables.CORRUPTIONS if name != "frost"]  # which takes photos
  source = data.corrupted.subset(data.open_source("digits", "test"), DIGITS)
  held: dict[tuple[str, int], Held] = {}
  examiners: dict[float, suites.Examiner] = {}

  def view(name, severity):
    if (name, severity) not in held:
      held[name, severity] = Held(data.corrupted.Corrupted(source, name, severity))
    return held[name, severity]

  found = {}
  for name, member in sweep.members_of(config).items():
    found[name] = []
    for seed, own in member.configs.items():
      path = member.folder(RUNS, seed) / "corrupted.json"
      if not path.exists():
        trained = plain(own, path.parent)
        # Networks of one width are one compiled program.
        examiner = examiners.setdefault(own.model.width, suites.Examiner(trained))
        examiner.trained = trained
        figures = suites.corruption_errors(examiner, view, names, SEVERITIES)
        path.write_text(json.dumps(figures["errors"], indent=2) + "\n")
      found[name].append(1 - robustness.mean_error(json.loads(path.read_text())))
  return found


def plain(config: ml_collections.ConfigDict, folder: pathlib.Path) -> training.results.Trained:
  """Returns the network of a run without auxiliary norms."""
  trained = training.results.restore(config, folder)
  config = ml_collections.ConfigDict(config)
  with config.unlocked():
    config.task.name, config.model.norm_sets = "classification", 1
  task, placement = training.results.model(config)
  variables = models.main_set(parallel.to_host(trained.variables))
  variables = placement.put(variables, placement.state(variables))
  return training.results.Trained(config, task, placement, variables, trained.step, {})


def main() -> None:
  """Runs what is missing and writes `results.json`."""
  swept = card.run_sweep(__file__, RUNS)
  corrupt = corrupted(get_config())
  plain, shared, one, strong = (
    "plain training",
    "adversarial training, shared norms",
    "AdvProp, one step",
    "AdvProp, five steps",
  )
  middle = {
    "plain_middle": plain,
    "shared_middle": shared,
    "advprop_middle": one,
    "strong_middle": strong,
  }
  taken = card.from_sweep(swept, middle)
  passes = {plain: "1", shared: "3", one: "3", strong: "7"}
  columns = {"passes a step": passes, **taken.pop("columns")}
  pairs = [[one, plain], [one, shared], [one, strong]]
  gains = {
    f"width {width}": np.subtract(corrupt[f"advprop_{name}"], corrupt[f"plain_{name}"]).tolist()
    for name, width in WIDTHS.items()
  }
  widths = [f"width {width}" for width in WIDTHS.values()]
  results = {}
  path = pathlib.Path(__file__).parent / "results.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
