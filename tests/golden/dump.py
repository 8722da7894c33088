"""What a config amounts to, as text: settings, weights, learning rate. `python -m tests.golden`."""

import dataclasses
import functools
import math
import pathlib
import re
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from effnets import configuration, data, ops, parallel, pipelines, tasks
from effnets.models import initialize
from effnets.training import inputs, optimizers

FOLDER = pathlib.Path(__file__).parent

CONFIGS = (
  "configs/advprop.py",
  "configs/advprop.py:b3,fine",
  "configs/bam.py",
  "configs/assemblenet.py",
  "configs/assemblenet.py:charades,101",
  "configs/assemblenet.py:moments_in_time",
  "configs/akd.py",
  "configs/akd.py:ensemble",
  "configs/akd.py:imagenet",
  "configs/akd.py:imagenet,transfer=cars",
  "configs/akd.py:matrix=5,teachers=2",
  "configs/akd.py:transfer",
  "configs/efficientdet.py",
  "configs/efficientdet.py:d0",
  "configs/efficientdet.py:d7x",
  "configs/efficientnet.py",
  "configs/efficientnet.py:b0",
  "configs/efficientnet.py:b0,transfer=cars",
  "configs/efficientnet.py:b0,transfer=cifar10,recipe=google",
  "configs/efficientnet.py:b7",
  "configs/efficientnet.py:l2",
  "configs/finetune.py",
  "configs/finetune.py:folder=/data/pictures",
  "configs/finetune.py:folder=/data/pictures,linear_probe",
  "configs/mixnet.py",
  "configs/mixnet.py:digit_scenes",
  "configs/mixnet.py:s",
  "configs/mixnet.py:l",
  "configs/mnasfpn.py",
  "configs/mnasfpn.py:mobilenetv2",
  "configs/mnasnet.py",
  "configs/mnasnet.py:digit_scenes",
  "configs/mnasnet.py:a1",
  "configs/mnasnet.py:small",
  "configs/mobilenetv3.py",
  "configs/mobilenetv3.py:coco",
  "configs/mobilenetv3.py:cityscapes,small",
  "configs/mobilenetv3.py:large",
  "configs/mobilenetv3.py:small,paper",
  "configs/mobilenetv3.py:small,transfer=birdsnap,folder=/data/birdsnap",
  "configs/netadapt.py",
  "configs/netadapt.py:imagenet",
  "configs/one_shot.py",
  "configs/one_shot.py:imagenet",
  "configs/noisy_student.py",
  "configs/noisy_student.py:b0,unlabelled=pictures:/data/unlabelled",
  "configs/noisy_student.py:imagenet,unlabelled=folder:/data/unlabelled",
  "configs/noisy_student.py:svhn",
  "configs/randaugment.py",
  "configs/randaugment.py:digit_scenes",
  "configs/randaugment.py:cifar10",
  "configs/randaugment.py:cifar10,shake_shake_26_2x96d,policy=autoaugment",
  "configs/randaugment.py:coco",
  "configs/randaugment.py:imagenet",
  "configs/randaugment.py:svhn,wide_resnet_28_2",
  "configs/saccader.py",
  "configs/saccader.py:imagenet",
  "configs/saccader.py:imagenet,patches",
  "configs/retrain.py",
  "configs/retrain.py:assemblenet",
  "configs/retrain.py:imagenet",
  "configs/retrain.py:spinenet",
  "configs/retrain.py:mnasfpn,coco",
  "configs/search_assemblenet.py",
  "configs/search_assemblenet.py:moments_in_time",
  "configs/search_efficientnet.py",
  "configs/search_efficientnet.py:imagenet",
  "configs/search_mixnet.py",
  "configs/search_mixnet.py:imagenet",
  "configs/search_mnasfpn.py",
  "configs/search_mnasfpn.py:coco",
  "configs/search_mnasnet.py",
  "configs/search_mnasnet.py:imagenet",
  "configs/search_mobilenetv3.py",
  "configs/search_mobilenetv3.py:imagenet",
  "configs/search_mobilenetv3.py:imagenet,large",
  "configs/search_spinenet.py",
  "configs/search_spinenet.py:coco",
  "configs/spinenet.py",
  "configs/spinenet.py:49",
  "configs/spinenet.py:mask_rcnn",
  "configs/spinenet.py:mask_rcnn,49s",
  "configs/video_prediction.py",
  "configs/video_prediction.py:human36m",
  "configs/video_prediction.py:kitti,k=1,m=1",
  "configs/video_prediction.py:towel_pick,lstm",
)

# Classes and training examples of what the configs name beside public sets; nothing is opened.
_DATA = {
  ("coco:coco", "train"): (90, 118287),
  ("cluttered_digits", "train"): (10, 11970),
  ("digits", "train"): (10, 1197),
  ("digits", "labelled"): (10, 100),
  ("charades:charades", "train"): (157, 7985),
  ("digit_actions", "train"): (8, 2048),
  ("digit_scenes", "train"): (10, 2048),
  ("human36m:human36m", "train"): (1, 3360),
  ("moving_digits", "train"): (1, 2048),
  ("kitti:kitti", "train"): (1, 290),
  ("robot:towel_pick_30k", "train"): (1, 30000),
  ("videos:moments_in_time", "train"): (339, 802264),
  ("videos:moments_in_time", "train[10%:]"): (339, 722038),
  ("segmentation:cityscapes", "train"): (19, 2975),
  ("folder:/data/birdsnap", "train"): (500, 47386),
  ("folder:/data/pictures", "train"): (3, 640),
}


def file(config: str) -> pathlib.Path:
  """Returns where the dump of `config`, FILE[:ARG], lies."""
  name = re.sub(r"\W+", "_", config.removeprefix("configs/").replace(".py", "")).strip("_")
  return FOLDER / f"{name}.txt"


def dump(name: str) -> str:
  """Returns the dump of the config `name`, FILE[:ARG]."""
  config = configuration.load(name)
  lines = [f"--config={name}", "", "config", *_leaves(configuration.flatten(config))]
  if not config.pipeline.name:
    return "\n".join([*lines, *_schedule(config), *_weights(config), ""])
  known: dict[str, str] = {}
  whole = configuration.flatten(config)
  for stage, planned in pipelines.planned(config).items():
    resolved = planned.config
    leaves = configuration.flatten(resolved)
    own = {k: v for k, v in leaves.items() if k != "pipeline.name" and whole.get(k, ()) != v}
    lines += ["", f"stage {stage}: config where it differs", *_leaves(own), *_schedule(resolved)]
    frozen, *weights = _weights(resolved)
    same = known.setdefault("\n".join(weights), stage)
    lines += [frozen, *(weights if same == stage else ["", f"weights as in stage {same}"])]
  return "\n".join([*lines, ""])


def _leaves(leaves: dict[str, Any]) -> list[str]:
  # An empty section says nothing, and is not equal to another one.
  plain = {k: v for k, v in leaves.items() if not hasattr(v, "to_dict")}
  return [f"  {key} = {value!r}" for key, value in plain.items()]


def _sizes(config: Any) -> inputs.Training:
  source, split = config.data.source, config.data.split.train
  if config.task.name == "text":
    texts = inputs.evaluation(config, "train")
    size = config.batch_size
    return inputs.Training(None, size, size, len(texts), texts.class_names)
  if (source, split) in _DATA:
    classes, epoch = _DATA[source, split]
  else:
    classes, epoch = data.catalog.KNOWN[source].classes, data.catalog.count(source, split)
  labelled, unlabelled = configuration.step_batch(config)
  return inputs.Training(
    None, labelled + unlabelled, labelled, epoch, tuple(map(str, range(classes)))
  )


def _schedule(config: Any) -> list[str]:
  examples = _sizes(config)
  total = inputs.total_steps(config, examples)
  rate = inputs.schedule(config, examples, total)
  unlabelled = examples.batch_size - examples.labelled
  lines = ["", f"batch: {examples.labelled} labelled, {unlabelled} unlabelled; {total} steps"]
  for step in sorted({0, total // 100, total // 10, total // 2, total - 1}):
    # Seven decimals are what float32 and every platform's cosine agree on.
    lines.append(f"  learning rate at step {step}: {float(rate(step)):.7f}")
  return lines


def _weights(config: Any) -> list[str]:
  examples, placement = _sizes(config), parallel.create({"data": -1})
  task = tasks.create(
    config,
    placement,
    num_classes=examples.num_classes,
    step_batch=examples.batch_size // config.accumulate,
  )
  frozen = (*config.optimizer.get("frozen", ()), *task.frozen)
  lines = [
    f"frozen: {', '.join(frozen) or 'nothing'}",
    "",
    f"{config.model.name} with {examples.num_classes} classes",
  ]
  count, decays = 0, optimizers.decay_rule(config.optimizer)
  # What does not change the weights is left at one value, so that each network is traced once.
  same = {"group": ops.Group(), "remat": "none", "dropout_rate": 0.0, "drop_path_rate": 0.0}
  same["frozen_blocks"] = 0
  fields = {field.name for field in dataclasses.fields(task.module)}
  module = task.module.clone(**{name: value for name, value in same.items() if name in fields})
  for (collection, *path), shape, initializer in _traced(module):
    words = [str(shape), initializer]
    if collection == "params":
      name = "/".join(path)
      count += math.prod(shape)
      words.append("decays" if decays(name) else "does not decay")
    lines.append(f"  {'/'.join((collection, *path))}: {', '.join(words)}")
  return [*lines, f"  {count} parameters"]


@functools.cache
def _shown(value: float | tuple[float, ...]) -> str:
  return f"{value:.6g}" if isinstance(value, float) else str(value)


def _traced(module: nn.Module) -> list[tuple[tuple[str, ...], tuple[int, ...], str]]:
  """Returns path, shape and initialiser of every variable; the image's size is immaterial."""
  # Networks of patches need room for some of them.
  run, arguments = initialize.trace(
    module, module.image_size if hasattr(module, "receptive_field") else 64
  )
  tree = traverse_util.flatten_dict(dict(jax.eval_shape(run, *arguments)))
  initializers = {}
  for (collection, *scope, last), value in tree.items():
    if collection == "intermediates" and ":" in last:
      of, name = last.split(":")
      fields = ", ".join(
        f"{f.name}={_shown(getattr(value, f.name))}" for f in dataclasses.fields(value)
      )
      initializers[of, *scope, name] = f"{type(value).__name__}({fields})"
  return [
    (p, tuple(x.shape), initializers[p]) for p, x in sorted(tree.items()) if p in initializers
  ]
