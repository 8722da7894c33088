"""`--mode=plan`: what a training would take on a slice of TPUs that need not be here."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from rich import box, table
from rich import console as rich_console

from effnets import configuration, data, errors, models, pipelines, training, workdirs
from effnets.evaluation import cards
from effnets.parallel import programs, slices

FILE = "plan.json"

# Tried in this order where a step does not fit, or on request: overrides of the config.
_LAYOUTS = (
  {"model": {"remat": "norm"}},
  {"model": {"remat": "block"}},
  {"mesh": {"data": -1, "fsdp": 8}},
  {"mesh": {"data": -1, "fsdp": 8}, "model": {"remat": "block"}},
  {"mesh": {"data": -1, "space": 4}, "model": {"remat": "block"}},
  {"mesh": {"data": -1, "fsdp": 4, "space": 4}, "model": {"remat": "block"}},
)


def plan(config: Any, workdir: str) -> None:
  """Compiles the training's own step for `config.plan.topology`, and tells what it costs.

  Of a pipeline every stage is planned, or `config.plan.stage`; of a search one child, and all of
  them together. The tables go to the terminal, all figures to `plan.json` in `workdir`.

  Raises: UserError for a slice, stage or data set that is none, a batch or mesh that does not go
    with the slice, or a missing compiler.
  """
  configuration.check(config)
  where = slices.resolve(config.plan.topology)
  children = _searched(config) if "search" in config else {}
  chosen = _stages(config, children)
  _before_jax(where)
  devices = where.devices()
  where = _counted(where, devices)
  if config.plan.search_batch and where.chip is None:
    raise errors.UserError(
      f"config.plan.search_batch=True: how much memory {where.name!r} has is not known; it goes "
      "with slices of TPUs."
    )
  console = rich_console.Console()
  plans = []
  for name, stage in chosen.items():
    with errors.context(f"stage {name}") if name else contextlib.nullcontext():
      found = _plan(stage, name, where, devices)
    if children:
      found["search"] = searched(children[name].count, found.get("recipe"))
    plans.append(found)
    console.print(_table(found))
  content = {
    "command": _command(),
    "versions": programs.versions(),
    "chip": None if where.chip is None else dataclasses.asdict(where.chip),
    "plans": plans,
  }
  workdirs.write(workdir, FILE, json.dumps(content, indent=2) + "\n")
  console.print(f"{workdir}/{FILE} written.", highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class _Compiled:
  """One step, its shapes and its costs."""

  config: Any
  ready: Any
  program: Any
  facts: programs.Facts


def _plan(stage: Any, name: str, where: slices.Slice, devices: Sequence[Any]) -> dict[str, Any]:
  settings = stage.config.plan
  own = _compile(stage, where, devices, {})
  found = {"stage": name, **_described(own, where, settings)}
  if settings.layouts or not own.facts.fits:
    found["layouts"] = _layouts(stage, where, devices)
  if settings.search_batch:
    found["largest_batch"] = _largest_batch(stage, own, where, devices)
  return found


def _compile(
  stage: pipelines.Planned, where: slices.Slice, devices: Sequence[Any], changes: dict[str, Any]
) -> _Compiled:
  """Returns the step of `stage` with `changes`, compiled or looked up."""
  config = ml_collections.ConfigDict(stage.config.to_dict())
  if changes:
    configuration.merge(config, changes, key="the layout")
  stand_ins = _stand_ins(config, stage.soft)
  ready = training.prepare(config, stand_ins=stand_ins, devices=devices)
  program = training.program(config, ready)
  batch = ready.examples.abstract_batch(ready.placement)
  facts = programs.inspect(program.lower(program.given, batch), where)
  return _Compiled(config, ready, program, facts)


def _stand_ins(config: Any, soft: bool) -> dict[str, data.Source]:
  """Returns a stand-in for every data set of the training that is not here, by its name."""
  settings, found = config.data, {}
  if config.task.name == "text":
    return _text_stand_ins(config, soft)
  try:
    classes = training.inputs.evaluation(config, "train").num_classes
  except errors.UserError:
    stand_in = data.catalog.blank(
      settings.source,
      settings.split.train,
      examples=config.plan.examples,
      classes=config.plan.classes,
      key="config.data.source",
    )
    found[settings.source], classes = stand_in, stand_in.num_classes
  more = settings.unlabelled
  if more.source and more.source not in found:
    # How many there are changes nothing in the step; epochs count labelled examples.
    found[more.source] = data.catalog.Blank(
      more.source, examples=1_000_000, classes=classes, image_size=None, soft=soft
    )
  return found


def _text_stand_ins(config: Any, soft: bool) -> dict[str, data.Source]:
  """Returns what stands for texts or a vocabulary that are not here, or for teachers' outputs."""
  name, options = config.data.source, config.data.options.to_dict()
  try:
    source = training.inputs.evaluation(config, "train")
    if not soft:
      return {}
  except errors.UserError:
    model = {key: value for key, value in config.model.items() if key != "name"}
    size = models.create(config.model.name, **model).vocab_size
    source = data.texts.stand_in(name, options, vocab_size=size)
  return {name: source.with_blank_targets() if soft else source}


# ---- What is told of a step ----------------------------------------------------------------------


def _described(made: _Compiled, where: slices.Slice, settings: Any) -> dict[str, Any]:
  config, ready, facts = made.config, made.ready, made.facts
  per_chip = len(ready.placement.mesh.devices.flat) // where.chips
  images = ready.examples.batch_size / where.chips
  found = {
    "model": config.model.name,
    **_sizes(config, ready),
    "topology": where.name,
    "chips": where.chips,
    "mesh": dict(ready.placement.mesh.shape),
    "execution": config.execution,
    "remat": config.model.remat,
    "batch_norm": str(config.batch_norm.group),
    "batch": {
      "labelled": ready.examples.labelled,
      "unlabelled": ready.examples.batch_size - ready.examples.labelled,
      "per_chip": images,
      "accumulate": config.accumulate,
    },
    "fits": facts.fits,
    "reason": facts.reason,
    "memory_per_chip": _memory(made, per_chip, where),
    "collectives": None
    if facts.fits and not facts.program
    else {k: {"count": n, "bytes": b} for k, (n, b) in facts.collectives.items()},
    "program": facts.program,
    "compile_seconds": round(facts.seconds, 1),
    "steps": ready.total_steps,
  }
  if facts.fits:
    found["flops_per_image"] = facts.flops * per_chip / images
    found["bytes_per_image"] = facts.traffic * per_chip / images
  if facts.fits and where.chip is not None:
    found["roofline"] = roofline(facts, where.chip, images=images, devices=per_chip)
    found["recipe"] = recipe(
      ready.total_steps, found["roofline"]["seconds_per_step"], where.chips, settings.fraction
    )
  return found


def _sizes(config: Any, ready: Any) -> dict[str, Any]:
  """Returns an example's size: `image_size` in pixels, `frames` of a clip, `tokens` of a text."""
  if config.task.name == "text":
    return {"tokens": ready.task.length}
  found = {"image_size": config.data.image_size}
  if config.task.name == "video":
    found["frames"] = config.data.clips.frames
  elif config.task.name == "prediction":
    found["frames"] = config.task.context + config.task.horizon
  return found


def roofline(
  facts: programs.Facts, chip: slices.Chip, *, images: float, devices: int = 1
) -> dict[str, Any]:
  """Returns the least time of a step: the longer of its arithmetic and its memory traffic.

  images: of a step, on one chip. devices: on a chip, each with the costs of `facts`. Messages
  between chips are taken to hide behind both.

  >>> facts = programs.Facts(True, flops=2e12, traffic=8e9)
  >>> roofline(facts, slices.CHIPS["v5e"], images=128)["bound"]
  'arithmetic'
  """
  arithmetic = facts.flops * devices / chip.flops
  traffic = facts.traffic * devices / chip.bandwidth
  seconds = max(arithmetic, traffic)
  return {
    "arithmetic_seconds": arithmetic,
    "memory_seconds": traffic,
    "seconds_per_step": seconds,
    "images_per_second_per_chip": images / seconds,
    "bound": "arithmetic" if arithmetic >= traffic else "memory",
  }


def recipe(steps: int, seconds: float, chips: int, fraction: float) -> dict[str, float]:
  """Returns hours and chip-hours of `steps` steps that each reach `fraction` of their roofline.

  >>> recipe(3600, 0.5, 16, 0.5)
  {'fraction': 0.5, 'hours': 1.0, 'chip_hours': 16.0}
  """
  hours = steps * seconds / fraction / 3600
  return {"fraction": fraction, "hours": hours, "chip_hours": hours * chips}


def searched(children: int, one: Mapping[str, float] | None) -> dict[str, float]:
  """Returns what `children` trainings take, one after the other; one: what `recipe` returned.

  >>> searched(8000, recipe(3600, 0.5, 16, 0.5))
  {'children': 8000, 'hours': 8000.0, 'chip_hours': 128000.0}
  """
  spent = {key: children * one[key] for key in ("hours", "chip_hours")} if one else {}
  return {"children": children, **spent}


def _memory(made: _Compiled, per_chip: int, where: slices.Slice) -> dict[str, float]:
  """Returns bytes of a chip's memory by what they hold."""
  abstract, facts = made.program.abstract, made.facts
  batch = made.ready.examples.abstract_batch(made.ready.placement)
  parts = {
    "parameters": abstract.params,
    "moments": abstract.model_state,
    "average": abstract.ema,
    "optimizer": abstract.opt,
    "input": batch,
  }
  found = {name: per_chip * _held(tree) for name, tree in parts.items()}
  if facts.fits:
    # Arrays are padded to the tiles of the memory.
    found["padding"] = max(0, per_chip * facts.arguments - sum(found.values()))
    found["temporaries"] = per_chip * (facts.temporaries + facts.outputs - facts.aliased)
    found["code"] = per_chip * facts.code
  found["total"] = sum(found.values())
  if where.chip is not None:
    found["capacity"] = where.chip.memory
  return {name: int(value) for name, value in found.items()}


def _held(tree: Any) -> int:
  """Returns the bytes that one device holds of placed shapes."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


# ---- Other layouts, other batches ----------------------------------------------------------------


def _layouts(
  stage: pipelines.Planned, where: slices.Slice, devices: Sequence[Any]
) -> list[dict[str, Any]]:
  """Returns what other layouts of the same training cost; one that cannot be says why."""
  found = []
  for changes in _LAYOUTS:
    row: dict[str, Any] = {"changes": changes}
    try:
      made = _compile(stage, where, devices, changes)
    except errors.UserError as error:
      row["refused"] = str(error)
    else:
      described = _described(made, where, stage.config.plan)
      row |= {k: described.get(k) for k in ("fits", "reason", "memory_per_chip", "roofline")}
    found.append(row)
    if row.get("fits") and not stage.config.plan.layouts:
      break  # the first that fits; all of them only on request
  return found


def _largest_batch(
  stage: pipelines.Planned, own: _Compiled, where: slices.Slice, devices: Sequence[Any]
) -> dict[str, Any]:
  """Returns the largest labelled batch that fits: a straight line through two, tried once.

  A step's memory is a constant and a part for each image, nearly: what was found is compiled, and
  taken back by an eighth as often as it does not fit.
  """
  capacity = where.chip.memory * where.chips / len(devices)
  shards = own.ready.placement.batch_shards * own.config.accumulate

  def tried(parts: int) -> _Compiled:
    return _compile(stage, where, devices, {"batch_size": parts * shards})

  own_parts = max(1, own.config.batch_size // shards)
  low, high = (max(1, own_parts // 4), max(2, own_parts // 2)) if own.facts.fits else (1, 2)
  points = [(parts, tried(parts).facts) for parts in (low, high)]
  if not all(facts.fits for _, facts in points):
    return {"batch_size": None, "reason": points[0][1].reason or points[1][1].reason}
  (x, first), (y, second) = points
  slope = max(1.0, (second.memory - first.memory) / (y - x))
  parts = int((capacity - first.memory) / slope) + x
  while parts > y:
    facts = tried(parts).facts
    if facts.fits:
      return {"batch_size": parts * shards, "per_chip": parts * shards / where.chips}
    parts -= max(1, parts // 8)
  return {"batch_size": y * shards, "per_chip": y * shards / where.chips}


# ---- Around it -----------------------------------------------------------------------------------


def _stages(config: Any, children: Mapping[str, Any]) -> dict[str, pipelines.Planned]:
  stages = {name: pipelines.Planned(each.config) for name, each in children.items()}
  stages = stages or pipelines.planned(config)
  wanted = config.plan.stage
  if not wanted:
    return stages
  if wanted not in stages:
    raise errors.unknown("config.plan.stage", wanted, "a stage", filter(None, stages))
  return {wanted: stages[wanted]}


def _searched(config: Any) -> dict[str, Any]:
  # What stores trials takes long to import, and only searches need it.
  from effnets.search import planning

  return planning.children(config)


def _before_jax(where: slices.Slice) -> None:
  """Sets what has to be set before JAX has made its devices; too late, it changes nothing."""
  if where.absent:
    # Else JAX would look for a TPU here, since its library is.
    jax.config.update("jax_platforms", "cpu")
  elif where.kind == "cpu":
    # If JAX has begun, `devices` counts what there is.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", where.chips)


def _counted(where: slices.Slice, devices: Sequence[Any]) -> slices.Slice:
  """Returns the slice with what is known of devices that are here."""
  if where.absent:
    return where
  chip = slices.CHIPS.get(devices[0].device_kind)
  return dataclasses.replace(where, chips=len(devices), chip=chip)


def _command() -> str:
  return " ".join(["python -m effnets.main", *(a for a in sys.argv[1:] if "--workdir" not in a)])


def _table(found: dict[str, Any]) -> table.Table:
  """Returns what is printed of one step, at most 80 characters wide."""
  batch, mesh = found["batch"], " x ".join(f"{k} {v}" for k, v in found["mesh"].items() if v > 1)
  title = f"{found['stage']}: " if found["stage"] else ""
  # Figures of a text or a clip are called as those of an image in the file, but not here.
  what, one, size = cards.planned_example(found)
  title += f"{found['model']}, {size}, {found['topology']}"
  shown = table.Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
  shown.add_column("what", no_wrap=True)
  shown.add_column("figure", overflow="fold")
  examples = f"{batch['labelled']:,}" + (
    f" + {batch['unlabelled']:,} unlabelled" if batch["unlabelled"] else ""
  )
  rows = [
    ("fits", "yes" if found["fits"] else f"no: {found['reason']}"),
    ("chips, mesh", f"{found['chips']}, {mesh or 'one device'}, {found['execution']}"),
    ("batch", f"{examples}; {batch['per_chip']:g} {what} a chip"),
  ]
  memory = found["memory_per_chip"]
  for name, size in memory.items():
    rows.append((f"memory: {name}", f"{size / slices.GIB:8.3f} GiB"))
  if found["fits"]:
    rows.append(("arithmetic", f"{found['flops_per_image'] / 1e9:.3f} GFLOP {one}"))
    rows.append(("memory traffic", f"{found['bytes_per_image'] / 1e6:.2f} MB {one}"))
    if found["collectives"] is None:
      rows.append(("messages", "not known: the compiler cannot print its program"))
    for kind, cost in (found["collectives"] or {}).items():
      rows.append((kind, f"{cost['count']} a step, {cost['bytes'] / 1e6:.2f} MB"))
  if "roofline" in found:
    roof, hours = found["roofline"], found["recipe"]
    rows.append(
      (
        "roofline",
        f"{roof['images_per_second_per_chip']:,.0f} {what}/s/chip, bound by {roof['bound']}",
      )
    )
    rows.append(
      (
        "recipe",
        f"{found['steps']:,} steps: {hours['hours']:,.1f} h, {hours['chip_hours']:,.0f} chip-hours "
        f"at {hours['fraction']:.0%} of the roofline",
      )
    )
  else:
    rows.append(("recipe", f"{found['steps']:,} steps"))
  if "search" in found:
    all_of_them = found["search"]
    words = f"{all_of_them['children']:,} children"
    if "chip_hours" in all_of_them:
      words += f": {all_of_them['chip_hours']:,.0f} chip-hours"
    rows.append(("search", words))
  rows.append(("compiled in", f"{found['compile_seconds']:.0f} s"))
  for layout in found.get("layouts", ()):
    changes = ", ".join(f"{k}={v}" for k, v in configuration.flatten(layout["changes"]).items())
    rows.append((f"with {changes}", _layout_words(layout)))
  if "largest_batch" in found:
    largest = found["largest_batch"]["batch_size"]
    rows.append(("largest batch", f"{largest:,}" if largest else found["largest_batch"]["reason"]))
  for row in rows:
    shown.add_row(*row)
  return shown


def _layout_words(layout: dict[str, Any]) -> str:
  if "refused" in layout:
    return layout["refused"]
  if not layout["fits"]:
    return f"does not fit: {layout['reason']}"
  words = f"fits in {layout['memory_per_chip']['total'] / slices.GIB:.2f} GiB"
  if layout["roofline"]:
    words += f", {layout['roofline']['images_per_second_per_chip']:,.0f} images/s/chip"
  return words
