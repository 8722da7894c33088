"""What `config.weights` names: a weight set with its source, or a run of one's own.

NAME           a weight set, fetched from the Hugging Face hub
NAME:SOURCE    a weight set from a file, a folder, or another Hugging Face id
bert:DIR       an encoder of texts, from the folder of its checkpoint
run:DIR        the newest checkpoint of the run in the workdir DIR
"""

import dataclasses
import pathlib
from typing import Any

import ml_collections

from effnets import configuration, errors, workdirs
from effnets.weights import bert, catalog, convert, detectors, loading

KEY = "config.weights"
_RUN = "run"
_HUB = ("hf-hub:", "hf_hub:")

# What of a config is the network's or its input's own, and so comes with the weights.
_INPUT = ("crop_fraction", "crop_padding", "image_size", "interpolation", "mean", "resize", "std")


@dataclasses.dataclass(frozen=True)
class Choice:
  """name: of a weight set; "" for a run. source: see `files.read`, or the workdir of a run."""

  name: str
  source: str

  @property
  def run(self) -> bool:
    """Whether it is a run of our own."""
    return not self.name


def parse(text: str) -> Choice:
  """Returns what `text` names.

  Raises: UserError for a name that is none, or a run without a folder.

  >>> parse("tf_efficientnet_b0.ns_jft_in1k:b0.safetensors")
  Choice(name='tf_efficientnet_b0.ns_jft_in1k', source='b0.safetensors')
  >>> parse("run:runs/b0").run
  True
  """
  for prefix in _HUB:
    text = text.removeprefix(prefix)
  name, colon, source = text.partition(":")
  if name == bert.NAME:
    if not source:
      raise errors.UserError(f"{KEY}={text!r} lacks the checkpoint's folder; write 'bert:DIR'.")
    return Choice(name, source)
  if loading.is_detector(name):
    if not source:
      raise errors.UserError(
        f"{KEY}={text!r}: no hub has a detector's weights by this name; write '{name}:PATH'."
      )
    return Choice(name, source)
  if name == _RUN:
    if not source:
      raise errors.UserError(f"{KEY}={text!r} lacks the run's workdir; write 'run:DIR'.")
    return Choice("", source)
  try:
    with errors.context(KEY):
      found = catalog.find(name)
  except errors.UserError as error:
    if not pathlib.Path(text).expanduser().exists():
      raise
    own = f", or 'run:{text}' for the workdir of a run" if pathlib.Path(text).is_dir() else ""
    raise errors.UserError(
      f"{KEY}={text!r} does not say which network's weights these are; write 'NAME:{text}', such "
      f"as 'tf_efficientnet_b0.ns_jft_in1k:{text}'{own}. All names: `weights.list_weights()`."
    ) from error
  if not source and found.architecture.scope:
    raise errors.UserError(
      f"{KEY}={text!r} is a checkpoint of the paper's own, which no hub has by this name; write "
      f"'{name}:PATH', or use timm's copy of it, 'tf_...'."
    )
  if not source and not found.tag:
    raise errors.UserError(
      f"{KEY}={text!r}: no weights of this network were published; write '{name}:SOURCE' for those "
      "in a file."
    )
  return Choice(name, source or f"timm/{found.name}")


def configure(config: ml_collections.ConfigDict, text: str) -> None:
  """Sets `config.weights` and what belongs to them: the network and how its pictures are prepared.

  Of `config.model`, what trains it (dropout, dtype, remat, frozen blocks) stays as it is.

  Raises: UserError as `parse`, or if DIR of `run:DIR` holds no run.
  """
  choice = parse(text)
  own = configuration.base()
  if choice.name == bert.NAME:
    _configure_bert(config, text, choice.source)
    return
  if loading.is_detector(choice.name):
    _configure_detector(config, text, detectors.find(choice.name))
    return
  if config.task.name in ("detection", "instances", "segmentation") and not choice.run:
    # A classifier's weights, for the body.
    config.weights = text
    return
  if choice.run:
    with errors.context(KEY):
      other = workdirs.saved(choice.source)
    # What AdvProp trained beside the main norms stays behind.
    left = _training(own) | {"norm_sets"}
    network = {key: value for key, value in other.model.items() if key not in left}
    prepared = {key: other.data[key] for key in _INPUT}
  else:
    found = catalog.find(choice.name)
    network = {"name": found.architecture.model, **found.architecture.settings}
    prepared = {**_inputs(own), **dataclasses.asdict(found.preprocessing)}
  kept = {key: value for key, value in config.model.items() if key in _training(own)}
  config.weights = text
  config.model = ml_collections.ConfigDict({**own.model, **kept, **network})
  config.data.update(prepared)


# What published networks are called, and a config for each kind.
_CONFIGS = {
  "detection": ("detector", "configs/efficientdet.py:d0"),
  "instances": ("Mask R-CNN", "configs/spinenet.py:mask_rcnn,49"),
  "segmentation": ("segmenter", "configs/mobilenetv3.py:cityscapes"),
}


def _configure_detector(config: ml_collections.ConfigDict, text: str, found: Any) -> None:
  if config.task.name != found.task:
    kind, start = _CONFIGS[found.task]
    raise errors.UserError(
      f"{KEY}={text!r} are a {kind}'s, config.task.name={config.task.name!r}; start from a "
      f"{kind}'s config, such as --config={start}."
    )
  kept = {k: v for k, v in config.model.items() if k in _training(configuration.base())}
  prepared = found.preprocessing(found.create().image_size)
  config.weights = text
  config.model = ml_collections.ConfigDict(
    {"padding": "SAME", **kept, "name": found.model, **found.settings}
  )
  if found.task != "segmentation":  # which any size will do for
    config.data.image_size = prepared.image_size
    config.data.scenes.keep_aspect = prepared.resize == "pad"
  config.data.update(
    {
      "mean": prepared.mean,
      "std": prepared.std,
      "interpolation": prepared.interpolation,
    }
  )
  config.data.scenes.fill = "mean" if prepared.fill is None else "black"


def _configure_bert(config: ml_collections.ConfigDict, text: str, source: str) -> None:
  """Sets the network and, if none is named, the vocabulary beside the weights."""
  if config.task.name != "text":
    raise errors.UserError(
      f"{KEY}={text!r} is an encoder of texts, config.task.name={config.task.name!r}; start from "
      "configs/bam.py."
    )
  folder = pathlib.Path(source).expanduser()
  with errors.context(KEY):
    found = bert.settings(bert.read_config(folder))
  # What trains it, such as dropout, stays as it is.
  network = {k: v for k, v in found.items() if "dropout" not in k and k != "std"}
  config.weights = text
  config.model.update({**network, "name": "bert_base"})
  if not config.data.options.get("vocabulary") and (folder / bert.VOCAB_FILE).is_file():
    config.data.options.vocabulary = str(folder / bert.VOCAB_FILE)


def _training(config: ml_collections.ConfigDict) -> set[str]:
  """Returns the settings of `config.model` that are no matter of the network itself."""
  return set(config.model) - {"name", "padding"}


def _inputs(config: ml_collections.ConfigDict) -> dict[str, Any]:
  return {key: config.data[key] for key in _INPUT}


def open_choice(text: str) -> convert.Imported:
  """Returns the weight set that `text` names, with its own classes.

  Raises: UserError for everything that is wrong with it, under the key `config.weights`.
  """
  choice = parse(text)
  if choice.run:
    raise ValueError(f"{text!r} is a run; its checkpoints are read where runs are known.")
  with errors.context(KEY):
    if choice.name == bert.NAME:
      return bert.load_bert(choice.source)
    return loading.load(choice.name, choice.source)
