"""Experiments of several trainings: sweeps, Noisy Student, searches of augmentation and scaling."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from effnets import models


def sweep(
  *,
  runs: Mapping[str, Any] | None = None,
  axes: Mapping[str, Mapping[str, Any]] | None = None,
  seeds: Sequence[int] = (0,),
  metric: str = "top1",
) -> ml_collections.ConfigDict:
  """Returns the `config.pipeline` of a sweep, see `effnets/pipelines/sweep.py`.

  Args:
    runs: name -> overrides of the config. axes: axis -> such; every combination is a run. One of
      the two. seeds: of every run. metric: the validation figure that ranks the runs.
  """
  settings = {"runs": dict(runs or {}), "axes": dict(axes or {}), "seeds": tuple(seeds)}
  return ml_collections.ConfigDict({"name": "sweep", **settings, "metric": metric})


def noisy_student(
  *, teacher: Any, students: Mapping[str, Any], labels: Mapping[str, Any], **more: Any
) -> ml_collections.ConfigDict:
  """Returns the `config.pipeline` of Noisy Student; `effnets/pipelines/stages.py` tells its keys.

  Args:
    teacher: overrides of the config. students: name -> such. labels: `source` and what else differs
      from the paper's way. more: other sections; controls that are not named are off.
  Source: Xie et al. 2020, section 3.1, and its official code.
  """
  pipeline = ml_collections.ConfigDict(
    {
      "name": "noisy_student",
      "teacher": teacher,
      "more_teachers": {},
      "filter": {},
      "given": "",
      "students": students,
      "from_teacher": "",
      "training": "joint",
      "pretrain": {},
      "tune": {},
      "finetune": {},
      "labels": {
        "source": "",
        "options": {},
        "split": "train",
        "kind": "soft",
        "min_confidence": 0.3,
        "per_class": 130_000,
        "upsample": True,
        "use_all": False,
        "select": "first",
        "by": "last",
        "noise": False,
        "flip": False,
        "shift": 0,
        "shards": 0,
        "batch_size": 64,
        "dtype": "float16",
      },
      "controls": {
        "no_noise": False,
        "no_model_noise": False,
        "no_input_noise": False,
        "noisy_teacher": False,
        "hard_labels": False,
        "separate": False,
        "no_unlabelled": False,
      },
    }
  )
  pipeline.update({"labels": dict(labels), **more})
  return pipeline


def bam(
  *,
  runs: str = "single,multi,single_single,single_multi,multi_multi",
  seeds: Sequence[int] = (0,),
  single: Any = None,
  multi: Any = None,
  student: Any = None,
) -> ml_collections.ConfigDict:
  """Returns the `config.pipeline` of born-again multi-task networks, see `pipelines/bam.py`.

  Args: runs: comma list. seeds: of every run. single, multi, student: overrides of the config.
  Source: Clark et al. 2019 (arXiv 1907.04829).
  """
  sections = {"single": single or {}, "multi": multi or {}, "student": student or {}}
  return ml_collections.ConfigDict({"name": "bam", "runs": runs, "seeds": tuple(seeds), **sections})


def randaugment_grid(
  config: ml_collections.ConfigDict,
  layers: Sequence[int],
  magnitudes: Sequence[float],
  *,
  seeds: Sequence[int] = (0,),
) -> None:
  """Makes `config` the search for RandAugment's N and M: a sweep over both.

  Source: Cubuk et al. 2019 (arXiv 1909.13719), section 3.
  """

  def values(letter, key, numbers):
    return {f"{letter}{number}": {"augment": {"randaugment": {key: number}}} for number in numbers}

  axes = {"layers": values("N", "layers", layers)}
  axes["magnitude"] = values("M", "magnitude", magnitudes)
  config.pipeline = sweep(axes=axes, seeds=seeds)


def learned_operations(
  config: ml_collections.ConfigDict, *, held_out: str, rate: float = 1.0
) -> None:
  """Makes `config` learn how often RandAugment draws each operation, on examples that are held out.

  Args: held_out: split of the config's data, with labels. rate: see `tasks.learned_operations`.
  """
  config.task.name = "learned_operations"
  config.learning = ml_collections.ConfigDict({"rate": rate})
  config.data.unlabelled.update({"source": config.data.source, "split": held_out, "ratio": 1.0})
  config.augment.operations_first = False
  config.optimizer.undecayed = ("^operations/",)


def scaling_grid(
  config: ml_collections.ConfigDict,
  *,
  step: float = 0.05,
  tolerance: float = 0.1,
  seeds: tuple[int, ...] = (0,),
) -> None:
  """Makes `config` the search for the base of compound scaling: a sweep at coefficient 1.

  Every candidate multiplies depth, width and image size of `config`'s model by its three factors,
  and so its multiply-adds by about 2; the best one by validation accuracy is the base. Channels are
  rounded to 8 and blocks up, so small networks get near 2 only, which the ranking tells.

  Args: step, tolerance: of `models.scaling.grid`.
  Source: Tan and Le 2019, section 3.3, step 1.
  """
  own = models.entry(config.model.name).settings() | config.model.to_dict()
  runs = {}
  for base in models.scaling.grid(step=step, tolerance=tolerance):
    factors = models.scaling.compound(1.0, base, image_size=config.data.image_size)
    percents = (round(100 * factor) for factor in (base.alpha, base.beta, base.gamma))
    runs["depth{}_width{}_size{}".format(*percents)] = {
      "model": {name: own[name] * factors[name] for name in ("depth", "width")},
      "data": {"image_size": factors["image_size"]},
    }
  config.pipeline = sweep(runs=runs, seeds=seeds)
