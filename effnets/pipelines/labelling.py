"""Teachers label a large set of pictures: shard by shard, on any number of devices and processes.

`config.pipeline.labels` has

  source, options, split   the pictures, as `config.data` has them; their labels are not looked at
  kind          soft: the teachers' probabilities; hard: their class alone
  min_confidence, per_class, upsample, use_all   see `pseudo_labels.rule`
  select        each: every round chooses pictures anew; first: the first round's choice stays, only
                its labels are made anew, as in the official code. A `filter` always chooses alike
  by            last: the stage before labels (in the first round teacher and `more_teachers`);
                all: every teacher and student so far, their probabilities averaged
  noise         whether teachers see and are under the noise of their training (an ablation)
  flip, shift   views that are averaged: also mirrored; also moved by so many pixels to each side
  shards        into how many parts the set is cut; 0: one for every 50,000 pictures
  batch_size    pictures at a time on each device: the same program on any number of devices
  dtype         in which probabilities are stored, float32 or float16

A shard's predictions are on disk before the next one is begun, and no process holds more than one
of them. Process p of n works on shards p, p + n, ... alone, with its own devices; nobody waits for
others within a pass. Whatever is killed goes on with the shards that are not done, also on another
number of devices or processes, and ends with the same labels bit for bit on equal machines.

The passes: answers of the network that chooses (`predictions/`, deleted at the end), their
histogram over all shards and the rule that follows (`rule.json`), then the labelled entries of each
shard, for which teachers that did not choose see only the chosen pictures.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PyTree, UInt8

from effnets import data, errors, parallel, streams, tasks, training, workdirs
from effnets.pipelines import pseudo_labels
from effnets.pipelines.stages import Stage

KINDS = ("soft", "hard")
SELECTIONS = ("each", "first")
LABELLERS = ("last", "all")
DTYPES = ("float32", "float16")

PER_SHARD = 50_000
_PREDICTIONS = "predictions"
_RULE = "rule.json"
_ANSWER = 8  # bytes of class and confidence


def check(labels: Any) -> None:
  """Raises UserError if a setting of `config.pipeline.labels` cannot be."""
  key = "config.pipeline.labels"
  for name, options, kind in (
    ("kind", KINDS, "a kind of label"),
    ("select", SELECTIONS, "a way to select"),
    ("by", LABELLERS, "a choice of teachers"),
    ("dtype", DTYPES, "a type to store"),
  ):
    if labels[name] not in options:
      raise errors.unknown(f"{key}.{name}", labels[name], kind, options)
  pseudo_labels.check(min_confidence=labels.min_confidence, per_class=labels.per_class)
  for name, least in (("shards", 0), ("batch_size", 1), ("shift", 0)):
    if labels[name] < least:
      raise errors.UserError(f"{key}.{name}={labels[name]} should be at least {least}.")
  if not labels.source:
    raise errors.UserError(
      f"{key}.source is empty; give the pictures to be labelled, such as 'folder:PATH', "
      "'pictures:PATH' or the name of a TFDS data set."
    )


class Pictures:
  """The pictures that `config.pipeline.labels` names: without labels, of the teacher's classes."""

  def __init__(self, labels: Any, class_names: Sequence[str]):
    """Opens them. Raises: UserError for a wrong setting, or if they are not there."""
    check(labels)
    self.source = data.open_source(
      labels.source, labels.split, options=labels.options.to_dict(), key="config.pipeline.labels"
    )
    self.name, self.image_size = self.source.name, self.source.image_size
    self.class_names, self.num_classes = tuple(class_names), len(class_names)
    # What a set that names its pictures by number has to know.
    self.images = {
      "images": labels.source,
      "images_split": labels.split,
      "images_options": labels.options.to_dict(),
    }

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> data.sources.Example:
    return {"image": self.source[index]["image"], "label": np.int32(-1)}


class _Part:
  """Some of the pictures, in the order of `indices`; `label` is a picture's number in the set."""

  def __init__(self, pictures: Pictures, indices: Int[np.ndarray, " m"]):
    self.name, self.image_size = pictures.name, pictures.image_size
    self.class_names, self.num_classes = pictures.class_names, pictures.num_classes
    self._pictures, self._indices = pictures, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> data.sources.Example:
    number = int(self._indices[index])
    return {"image": self._pictures[number]["image"], "label": np.int32(number)}


class Labeller:
  """Teachers that label together, on this process's devices.

  names: theirs. figures: theirs, by name. digest: of their weights and of how they look.
  """

  def __init__(self, teachers: Sequence[Stage], labels: Any, *, classes: int, seed: int):
    """Takes trained stages; every process has to. labels: `config.pipeline.labels`."""
    self.names = tuple(teacher.name for teacher in teachers)
    self.figures = {teacher.name: teacher.figures for teacher in teachers}
    self._predictors = []
    known = hashlib.sha256(
      json.dumps([self.names, seed, *(labels[k] for k in ("noise", "flip", "shift"))]).encode()
    )
    for teacher in teachers:
      variables = parallel.to_host(teacher.variables)
      for leaf in jax.tree.leaves(variables):
        known.update(np.ascontiguousarray(leaf).tobytes())
      config = _local(teacher.config, labels.batch_size)
      placement = parallel.create(config.mesh.to_dict(), devices=jax.local_devices())
      task = tasks.create(config, placement, num_classes=classes, step_batch=config.eval_batch_size)
      whole = jax.tree.map(lambda _, placement=placement: placement.replicated, variables)
      predict = _Averaged(task, labels.noise, labels.flip, labels.shift, seed).predict
      predictor = training.evaluator.create(config, task, placement, predict=predict)
      self._predictors.append((config, predictor, placement.put(variables, whole)))
    self.digest = known.hexdigest()

  def tally(self, pictures: Pictures) -> data.Tally:
    """Returns an empty count of unreadable pictures, which stops at the limit of the config."""
    limit = self._predictors[0][0].data.max_unreadable
    return data.Tally(pictures.name, size=len(pictures), limit=limit)

  def probabilities(
    self, pictures: Pictures, indices: Int[np.ndarray, " m"], tally: data.Tally
  ) -> Float32[np.ndarray, "m k"]:
    """Returns the mean of the teachers' softmax over some pictures, each at its own resolution.

    The row of a picture that cannot be read is zero. tally: counts those.
    """
    total = np.zeros((len(indices), pictures.num_classes), np.float32)
    if not len(indices):
      return total
    part = _Part(pictures, indices)
    for number, (config, predictor, variables) in enumerate(self._predictors):
      transform = training.inputs.evaluation_transform(config, part)
      # Every teacher reads the same files: they are counted once.
      counted = tally if not number else data.Tally(part.name, size=len(part), limit=1.0)
      for outputs, examples in predictor.batches(variables, part, transform, counted):
        total[examples["index"]] += outputs["probabilities"]
    return total / np.float32(len(self._predictors))


def _local(config: Any, batch_size: int) -> ml_collections.ConfigDict:
  """Returns a stage's config for predictions on this process's devices alone."""
  local = ml_collections.ConfigDict(config.to_dict())
  local.mesh.update({"data": len(jax.local_devices()), "fsdp": 1, "space": 1})
  local.execution = "jit"
  local.eval_batch_size = batch_size * len(jax.local_devices())
  local.batch_norm.group = "local"
  local.task.update({"mixup": 0.0, "cutmix": 0.0})
  return local


@dataclasses.dataclass(frozen=True)
class _Averaged:
  """A task's softmax, averaged over views of each picture, with or without noise."""

  task: Any
  noise: bool
  flip: bool
  shift: int
  seed: int

  def predict(self, variables: PyTree, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Returns `probabilities`, float32 `b k`."""
    seen = views(batch["image"], flip=self.flip, shift=self.shift)
    if len(seen) == 1:
      return {"probabilities": self._softmax(variables, batch, seen[0])}
    # One after the other: the network is compiled once, and a view needs no more memory than one.
    each = jax.lax.map(lambda images: self._softmax(variables, batch, images), jnp.stack(seen))
    return {"probabilities": each.mean(0)}

  def _softmax(self, variables: PyTree, batch: Mapping[str, Array], images: Array) -> Array:
    if not self.noise:
      return jax.nn.softmax(self.task.logits(variables, images))
    # The label is the picture's number in the set (see `_Part`): its noise is a function of that.
    number = batch["label"].astype(jnp.uint32)
    position = jnp.stack([jnp.zeros_like(number), number], -1)
    root = streams.stream(jax.random.key(self.seed), "noisy_teacher")
    noised = {"image": images, "position": position}
    return jax.nn.softmax(self.task.noised_logits(variables, noised, root))


def views(
  images: UInt8[Array, "b h w 3"], *, flip: bool, shift: int
) -> list[UInt8[Array, "b h w 3"]]:
  """Returns what a teacher sees of each picture: itself first, mirrored and moved if so asked.

  shift: pixels to each of the four sides; what moves in is reflected, abc -> cbabcba.
  """
  seen = [images]
  if shift:
    _, height, width, _ = images.shape
    wide = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
      top, left = down * shift, right * shift
      seen.append(wide[:, top : top + height, left : left + width])
  return [*seen, *(view[:, :, ::-1] for view in seen)] if flip else seen


@dataclasses.dataclass(frozen=True)
class Round:
  """One labelling: who chooses the pictures, who labels them, where the result lies.

  chooser: None keeps the choice of `earlier`, the folder of another round.
  """

  folder: pathlib.Path
  pictures: Pictures
  labels: Any
  labeller: Labeller
  chooser: Labeller | None
  earlier: pathlib.Path | None = None
  seed: int = 0

  @property
  def shards(self) -> int:
    """Into how many parts the set is cut; none is empty."""
    count, size = self.labels.shards, len(self.pictures)
    return min(size, count or math.ceil(size / PER_SHARD))

  def range(self, number: int) -> range:
    """Returns which pictures are in a shard."""
    size = len(self.pictures)
    return range(size * number // self.shards, size * (number + 1) // self.shards)


def run(this: Round) -> dict[str, Any]:
  """Makes the labelled set of a round, unless it is there, and returns its manifest.

  Raises: UserError, on every process, if too many pictures cannot be read or none is chosen.
  """
  manifest = data.records.read_manifest(this.folder)
  if manifest is not None:
    return manifest
  rule = None if this.chooser is None else _choose(this, this.chooser)
  parts = data.parts.Parts(this.folder, this.shards)
  parallel.on_first(lambda: parts.claim(_plan(this)))

  def write():
    tally = this.labeller.tally(this.pictures)
    for number in _mine(this, parts, f"{this.folder.name}: shards"):
      _write(this, parts, number, rule, tally)

  parallel.on_each(write)
  parallel.on_first(lambda: _publish(this, parts, rule))
  return data.records.read_manifest(this.folder)


def _plan(this: Round) -> dict[str, Any]:
  """Returns what decides a round's predictions and labels: files of another plan go."""
  return {
    "labeller": this.labeller.digest,
    "chooser": this.chooser and this.chooser.digest,
    "pictures": len(this.pictures),
    "shards": this.shards,
    "seed": this.seed,
    "settings": this.labels.to_dict(),
  }


def _mine(this: Round, parts: data.parts.Parts, name: str) -> Iterator[int]:
  """Yields the shards of this process that are not done, and tells how far it is."""
  mine = range(jax.process_index(), this.shards, jax.process_count())
  missing = [number for number in mine if parts.finished(number) is None]
  start, active = len(mine) - len(missing), len(mine) > 1 and jax.process_index() == 0
  with training.progress.Progress(len(mine), name, start=start, active=active) as bar:
    for done, number in enumerate(missing, start + 1):
      yield number
      bar.update(done, images=len(this.range(number)))


def _choose(this: Round, chooser: Labeller) -> pseudo_labels.Rule:
  """Returns the rule that all answers of `chooser` give, which are on disk after that."""
  parts = _answers(this)
  parallel.on_first(lambda: parts.claim(_plan(this)))
  keep = this.labels.kind == "soft" and chooser is this.labeller
  each = _ANSWER + keep * this.pictures.num_classes * np.dtype(this.labels.dtype).itemsize
  parallel.on_first(lambda: _check_space(this, parts, each))

  def predict():
    tally = chooser.tally(this.pictures)
    for number in _mine(this, parts, f"{this.folder.name}: predictions"):
      indices = np.asarray(this.range(number))
      probabilities = chooser.probabilities(this.pictures, indices, tally)
      answers = pseudo_labels.Answers.of(probabilities)
      kept = {"probabilities": probabilities.astype(this.labels.dtype)} if keep else {}
      with open(parts.partial, "wb") as file:
        np.savez(file, label=answers.label, confidence=answers.confidence, **kept)
      size = parts.partial.stat().st_size
      data.records.publish(parts.partial, parts.data(number))
      unreadable = indices[answers.confidence == 0].tolist()
      parts.finish(number, {"count": len(indices), "bytes": size, "unreadable": unreadable})

  parallel.on_each(predict)

  def sum_up():
    classes = this.pictures.num_classes
    histogram, unreadable = np.zeros((classes, pseudo_labels.BINS), np.int64), []
    for number in range(this.shards):
      unreadable += parts.finished(number)["unreadable"]
      histogram += _load(parts, number)[0].histogram(classes)
    tally = chooser.tally(this.pictures)
    if len(unreadable) > tally.limit * len(this.pictures):
      # What each process has let pass may be too many in all.
      tally.add(len(this.pictures), [f"{this.pictures.name} #{index}" for index in unreadable])
    settings = {k: this.labels[k] for k in ("min_confidence", "per_class", "upsample", "use_all")}
    found = dataclasses.asdict(pseudo_labels.rule(histogram, **settings))
    text = json.dumps({name: values.tolist() for name, values in found.items()})
    workdirs.write(parts.path, _RULE, text)

  parallel.on_first(sum_up)
  found = json.loads((parts.path / _RULE).read_text())
  return pseudo_labels.Rule(**{name: np.array(values) for name, values in found.items()})


def _check_space(this: Round, parts: data.parts.Parts, each: int) -> None:
  """Raises UserError if the disk has no room for predictions of so many bytes a picture."""
  missing = [number for number in range(this.shards) if parts.finished(number) is None]
  needed = each * sum(len(this.range(number)) for number in missing)
  free = shutil.disk_usage(parts.path).free
  if needed > free:
    raise errors.UserError(
      f"{this.folder} needs {needed / 1e9:.1f} GB for predictions of {this.pictures.name}, and "
      f"{free / 1e9:.1f} GB are free there; config.pipeline.labels.dtype='float16' or kind='hard' "
      "needs less."
    )


def _answers(this: Round) -> data.parts.Parts:
  return data.parts.Parts(this.folder / _PREDICTIONS, this.shards, _PREDICTIONS, ".npz")


def _load(
  parts: data.parts.Parts, number: int
) -> tuple[pseudo_labels.Answers, Callable[[], Float[np.ndarray, "n k"]]]:
  """Returns the answers of a shard, and what reads its probabilities."""

  def probabilities():
    with np.load(parts.data(number)) as file:
      return file["probabilities"]

  with np.load(parts.data(number)) as file:
    return pseudo_labels.Answers(file["label"], file["confidence"]), probabilities


def _chosen(folder: pathlib.Path, number: int) -> pathlib.Path:
  """Returns the file with the pictures of a shard's entries, for later rounds to label again."""
  return folder / f"chosen-{number:05d}.npy"


def _write(
  this: Round,
  parts: data.parts.Parts,
  number: int,
  rule: pseudo_labels.Rule | None,
  tally: data.Tally,
) -> None:
  """Writes the entries of a shard."""
  pictures = this.range(number)
  if rule is None:
    entries = np.load(_chosen(this.earlier, number))
  else:
    answers, stored = _load(_answers(this), number)
    counts = rule.counts(answers, start=pictures.start, seed=this.seed)
    entries = np.repeat(np.asarray(pictures), counts)
  soft = this.labels.kind == "soft"
  if rule is not None and this.chooser is this.labeller:
    row = entries - pictures.start
    labels, probabilities = answers.label[row], stored()[row] if soft else None
  else:
    once, row = np.unique(entries, return_inverse=True)
    found = this.labeller.probabilities(this.pictures, once, tally)
    answers = pseudo_labels.Answers.of(found)
    # What has become unreadable since it was chosen cannot be labelled.
    readable = answers.confidence[row] > 0
    entries, row = entries[readable], row[readable]
    labels = answers.label[row]
    probabilities = found.astype(this.labels.dtype)[row] if soft else None
  with data.records.open_writer(parts.partial) as write_record:
    for example in pseudo_labels.examples(entries, labels, probabilities):
      write_record(example)
  told = data.records.describe(parts.partial, len(entries))
  if len(entries):
    data.records.publish(parts.partial, parts.data(number))
  else:
    parts.partial.unlink()
  with open(parts.partial, "wb") as file:
    np.save(file, entries)
  data.records.publish(parts.partial, _chosen(this.folder, number))
  by_class = np.bincount(labels, minlength=this.pictures.num_classes)
  more = {"distinct": len(np.unique(entries)), "by_class": by_class.tolist()}
  parts.finish(number, {**told, "data": parts.data(number).name, **more})


def _publish(this: Round, parts: data.parts.Parts, rule: pseudo_labels.Rule | None) -> None:
  """Makes the written shards a data set, and deletes what only led there."""
  told = [parts.finished(number) for number in range(this.shards)]
  count = sum(shard["count"] for shard in told)
  if not count:
    raise errors.UserError(
      f"config.pipeline.labels.per_class={this.labels.per_class}: so few that no picture was drawn."
    )
  if rule is None:
    # What is said of the choice is what was said then; of the labels, what is there now.
    figures = data.records.read_manifest(this.earlier)["provenance"]["figures"]
  else:
    figures = rule.figures()
  figures = {
    **figures,
    "entries": count,
    "distinct": sum(shard["distinct"] for shard in told),
    "by_class": np.sum([shard["by_class"] for shard in told], axis=0).tolist(),
  }
  fields = {
    "label": {"dtype": "int32", "shape": []},
    "source_index": {"dtype": "int64", "shape": []},
  }
  if this.labels.kind == "soft":
    classes = this.pictures.num_classes
    fields["probabilities"] = {"dtype": this.labels.dtype, "shape": [classes]}
  described = ("data", "count", "bytes", "sha256")
  chooser = this.chooser or this.labeller
  data.records.write_manifest(
    this.folder,
    {
      "count": count,
      "fields": fields,
      "image_size": None,
      "num_classes": this.pictures.num_classes,
      "class_names": list(this.pictures.class_names),
      "shards": [{key: shard[key] for key in described} for shard in told if shard["count"]],
      "images": this.pictures.images,
      "provenance": {
        "teachers": this.labeller.figures,
        "chosen_by": list(chooser.names) if rule is not None else str(this.earlier.name),
        "source": this.pictures.name,
        "settings": this.labels.to_dict(),
        "seed": this.seed,
        "figures": figures,
      },
    },
  )
  parts.clear()
  shutil.rmtree(this.folder / _PREDICTIONS, ignore_errors=True)
