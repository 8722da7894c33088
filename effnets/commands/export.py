"""`--mode=export`: a model as a program of another runtime, checked in that runtime."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich import console as rich_console

from effnets import data, errors, parallel, tasks, training
from effnets.commands import export_clips, export_texts
from effnets.commands.trained import class_names, describe, open_model
from effnets.weights import programs

ABOUT = "export.json"

# Of the largest logit. Another order of the same sums, and weights that were multiplied out
# beforehand, cost about 1e-6; a wrong padding or layout costs more than 1e-2.
TOLERANCE = 1e-3
_CHECKED = 8  # images or texts
# Formats that have words for everything, loops too, and so for the suppression of detections.
_LOOPS = ("stablehlo", "savedmodel")
_OBJECTS = ("detection", "instances")  # of whose program `batch_size` is a part
_SCENES = (*_OBJECTS, "segmentation")
_FILMS = ("video", "prediction")
_Exported = programs.Program | programs.TextProgram | programs.Films


def export(config: Any, workdir: str) -> None:
  """Writes a model as `config.export.format`, and what is known of it as `export.json`.

  The model is that of `trained.open_model`. Both go to a folder of their own, `config.export.path`
  or `export/FORMAT` in `workdir`, in place of what an earlier export left there. The program is
  run by its own runtime before it gets its place: if its outputs are not the model's, there is
  none.

  Raises: UserError if there is no such model, a package is missing, the format lacks an operation
    of the network, the folder holds anything else, or the outputs differ.
  """
  settings = config.export
  chosen = _format(settings, config.task.name)
  chosen.check()
  name = f"{settings.format}_int8" if settings.int8 else settings.format
  folder = pathlib.Path(settings.path or pathlib.Path(workdir) / "export" / name)
  _check_free(folder)
  trained = open_model(config, workdir)
  names = class_names(config, trained)
  calibration = _calibration(trained, settings) if settings.int8 else None
  program = _program(trained, settings)
  if jax.process_index():
    return
  with _replacing(folder) as new:
    file = new / chosen.file
    if chosen.any_batch:
      chosen.write(program, file)
    else:
      chosen.write(program, file, batch_size=settings.batch_size, calibration=calibration)
    about = {
      "format": settings.format,
      "file": chosen.file,
      "int8": settings.int8,
      "model": trained.config.model.name,
      "source": trained.about,
    }
    # None takes any number of examples.
    batch = program.batch if chosen.any_batch else settings.batch_size
    if isinstance(program, programs.TextProgram):
      about |= export_texts.describe(trained, program)
      about["tokenizer"] = export_texts.write_vocabulary(trained, new)
    elif isinstance(program, programs.Films):
      about |= export_clips.describe(trained, program) | {"class_names": list(names)}
    else:
      about |= _describe_images(trained, program, batch) | {"class_names": list(names)}
    about.update(_compare(program, chosen.read(file), trained, settings, new, batch))
    (new / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
  _report(about, f"{describe(trained, workdir)}: {folder / chosen.file}")


def _program(trained: training.results.Trained, settings: Any) -> _Exported:
  task = trained.task
  if isinstance(task, tasks.Text):
    return export_texts.program(trained)
  if export_clips.is_films(task):
    return export_clips.program(trained)
  module, variables = task.tested(parallel.to_host(trained.variables))
  more: dict[str, Any] = {}
  if isinstance(task, tasks.SceneTask):
    more["names"], more["forward"] = task.exported(suppression=settings.suppression)
    # Detections are chosen example by example, in loops of fixed shapes.
    more["batch"] = settings.batch_size if isinstance(task, tasks.ObjectTask) else None
  elif not isinstance(task, tasks.Classification):
    raise errors.UserError(
      f"--mode=export: config.task.name={trained.config.task.name!r} cannot be exported; "
      "classification, detection, instances, segmentation and text can, of films also prediction."
    )
  return programs.Program(
    module=module,
    variables=variables,
    image_size=task.image_size,
    mean=task.mean,
    std=task.std,
    **more,
  )


def _format(settings: Any, task: str) -> programs.Format:
  chosen = programs.FORMATS[settings.format]
  if task in _FILMS and settings.format != "stablehlo":
    raise errors.UserError(
      f"config.export.format={settings.format!r}: networks of films go as stablehlo."
    )
  if task in _SCENES and (settings.int8 or settings.format not in _LOOPS):
    raise errors.UserError(
      f"config.export.format={settings.format!r}{' with int8' if settings.int8 else ''} is for "
      f"classifiers; detectors and segmenters go as {' or '.join(_LOOPS)}."
    )
  if task in _OBJECTS:
    return chosen
  if task == "text" and settings.format == "tflite":
    raise errors.UserError(
      "config.export.format='tflite' is for classifiers of images; encoders of texts go as "
      "stablehlo, onnx or savedmodel."
    )
  if settings.int8 and settings.format != "tflite":
    raise errors.UserError(
      f"config.export.int8=True is for tflite; in {settings.format} programs compute in float32. "
      "Set --config.export.format=tflite, or leave int8 out."
    )
  if settings.batch_size != 1 and chosen.any_batch:
    raise errors.UserError(
      f"config.export.batch_size={settings.batch_size} is for tflite; a program in "
      f"{settings.format} takes batches of any size. Leave it out."
    )
  return chosen


# ---- The folder ----------------------------------------------------------------------------------


def _check_free(folder: pathlib.Path) -> None:
  """Checks that nothing but an earlier export would give way to this one."""
  if folder.is_dir() and not (folder / ABOUT).is_file() and any(folder.iterdir()):
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:3])
    raise errors.UserError(
      f"config.export.path: {folder} holds something that is no export ({found}); give a new or "
      "empty folder."
    )
  if folder.exists() and not folder.is_dir():
    raise errors.UserError(f"config.export.path: {folder} is a file; give a folder.")


@contextlib.contextmanager
def _replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a new folder that takes the place of `folder` if all goes well, and else vanishes."""
  new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("tmp", "old"))
  made = [p for p in (folder.parent, *folder.parent.parents) if not p.exists()]
  try:
    for path in (new, old):  # of an export that was killed
      shutil.rmtree(path, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if folder.exists():
      folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
  except BaseException as error:
    shutil.rmtree(new, ignore_errors=True)
    if old.exists() and not folder.exists():
      old.rename(folder)
    for path in made:
      with contextlib.suppress(OSError):
        path.rmdir()
    if isinstance(error, OSError):
      raise errors.UserError(
        f"config.export.path: {folder} cannot be written: {error.strerror or error}."
      ) from error
    raise


# ---- Inputs, and what the program makes of them --------------------------------------------------


def _batches(trained: training.results.Trained, part: str, size: int) -> Iterator[dict[str, Any]]:
  """Yields `image` and `label` of the split that plays `part`, in order, `size` at a time."""
  config = trained.config
  source = training.inputs.evaluation(config, part)
  transform = training.inputs.evaluation_transform(config, source)
  reading = {name: config.data[name] for name in ("workers", "threads", "max_unreadable")}
  for batch in data.eval_batches(source, size, transform=transform, **reading):
    real = batch["mask"]
    yield {name: batch[name][real] for name in ("image", "label")}


def _some_images(trained: training.results.Trained) -> tuple[np.ndarray, str]:
  """Returns a few images and what they are: of the validation data, or noise if there is none."""
  try:
    images = next(_batches(trained, "validation", _CHECKED))["image"]
    return images, f"images of {training.inputs.evaluation(trained.config, 'validation').name}"
  except (errors.UserError, StopIteration):
    size = trained.task.image_size
    sides = (size, size) if isinstance(size, int) else size
    shape = (_CHECKED, *sides, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8), "images of noise"


def _calibration(
  trained: training.results.Trained, settings: Any
) -> Callable[[], Iterator[np.ndarray]]:
  """Returns what gives the batches of training images that decide the int8 ranges.

  Raises: UserError if the data is not there or not the model's.
  """
  source = training.inputs.evaluation(trained.config, "train")
  if source.num_classes != trained.task.num_classes:
    raise errors.UserError(
      f"config.export.int8=True: config.data.source={trained.config.data.source!r} has "
      f"{source.num_classes} classes, the model {trained.task.num_classes}; int8 ranges come from "
      "pictures such as the model was trained on. Give them, --config.data.source=folder:PATH."
    )
  size = settings.batch_size
  if size > len(source):
    raise errors.UserError(
      f"config.export.batch_size={size} exceeds the {len(source)} training images that int8 ranges "
      "are to come from; give a smaller one."
    )
  count = max(1, settings.calibration_examples // size)

  def images():
    for index, batch in enumerate(_batches(trained, "train", size)):
      if index == count:
        break
      if len(batch["image"]) == size:
        yield batch["image"]

  return images


def _compare(
  program: _Exported,
  run: programs.Run,
  trained: training.results.Trained,
  settings: Any,
  folder: pathlib.Path,
  batch: int | None,
) -> dict[str, Any]:
  """Returns what the program gives in its own runtime, and how far that is from the model.

  batch: examples that it takes, None for any number.

  Raises: UserError if a float32 program is further away than `TOLERANCE`.
  """
  reference = program.reference()
  if isinstance(program, programs.TextProgram):
    given, what = export_texts.examples(trained, _CHECKED)
  elif isinstance(program, programs.Films):
    given, what = export_clips.examples(trained, program)
  else:
    images, what = _some_images(trained)
    if program.batch:
      images = np.resize(images, (program.batch, *images.shape[1:]))
    given = (images,)
  expected, actual = reference(*given), run(*given)
  differences = {name: float(np.abs(actual[name] - expected[name]).max()) for name in program.names}
  judged = program.names[0]
  largest = float(np.abs(expected[judged]).max())
  limit = TOLERANCE * largest
  if not settings.int8 and not differences[judged] <= limit:  # NaN is no agreement either
    raise errors.UserError(
      f"config.export.format={settings.format!r}: the program's {judged} differ from the model's "
      f"by {differences[judged]:.3g}, more than {limit:.3g}; nothing was written. Other formats "
      f"may do: {', '.join(sorted(set(programs.FORMATS) - {settings.format}))}."
    )
  about = {
    "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    "largest_difference": differences,
    "largest": largest,
    "compared_on": f"{len(given[0])} {what}",
  }
  about["outputs"] = {
    name: {"dtype": str(actual[name].dtype), "shape": [batch, *actual[name].shape[1:]]}
    for name in program.names
  }
  if settings.int8:
    about["top1"] = _accuracy(trained, settings, {"float32": reference, "int8": run})
  return about


def _accuracy(
  trained: training.results.Trained, settings: Any, runs: dict[str, programs.Run]
) -> dict[str, Any]:
  """Returns the share of right answers of each of `runs` on test data, and what int8 loses."""
  right, count = dict.fromkeys(runs, 0), 0
  size = trained.config.eval_batch_size
  for batch in _batches(trained, "test", size):
    left = (settings.accuracy_examples or len(batch["image"]) + count) - count
    images, labels = batch["image"][:left], batch["label"][:left]
    for name, run in runs.items():
      right[name] += int(np.sum(run(images)["logits"].argmax(-1) == labels))
    count += len(images)
    if count == settings.accuracy_examples:
      break
  shares = {name: number / count for name, number in right.items()}
  lost = round(shares["float32"] - shares["int8"], 6)
  return {"split": "test", "examples": count, **shares, "lost": lost}


# ---- What is told --------------------------------------------------------------------------------


def _describe_images(
  trained: training.results.Trained, program: programs.Program, batch: int | None
) -> dict[str, Any]:
  """Returns what is told of a program of images, which takes so many."""
  config, task = trained.config, trained.task
  size = task.image_size
  scenes = isinstance(task, tasks.SceneTask)
  return {
    # A batch of null takes any number of images.
    "input": {"name": programs.INPUT, "dtype": "uint8", "shape": [batch, *program.shape]},
    "image_size": size,
    "crop_fraction": 1.0 if scenes else training.inputs.crop_fraction(config),
    "interpolation": training.inputs.interpolation(config),
    # A detector's pictures stand at the top left, as large as they fit, the rest in their mean.
    "resize": "pad" if scenes else config.data.resize,
    # Inside the program: pixels / 255 - mean, over std.
    "normalization": {"mean": list(task.mean), "std": list(task.std)},
  }


def _report(about: dict[str, Any], title: str) -> None:
  difference = about["largest_difference"]
  first, *others = difference
  told = [f"{first} {difference[first]:.2g} (of up to {about['largest']:.3g})"]
  told += [f"{name} {difference[name]:.2g}" for name in others]
  lines = [
    f"{title} ({about['bytes']:,} bytes)",
    f"largest difference in {about['compared_on']}: {', '.join(told)}",
  ]
  if "top1" in about:
    top1 = about["top1"]
    lines.append(
      f"top-1 of {top1['examples']} test images: {top1['float32']:.4f} in float32, "
      f"{top1['int8']:.4f} in int8, {top1['lost']:.4f} lost"
    )
  rich_console.Console(highlight=False).print("\n".join(lines), soft_wrap=True, markup=False)
