"""Models by name: how to build them, and what has to be known to use and to check them."""

import dataclasses
import fnmatch
import inspect
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from effnets import errors

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Entry:
  """What is known of a registered model, with the classes of its paper.

  build: makes the module from `num_classes` and overrides, all keyword arguments.
  paper: arXiv number of the publication, or None for the project's own.
  image_size: pixels, height and width. mean, std: of pixels scaled to [0, 1].
  crop_padding: an evaluation crop is `size / (size + crop_padding)` of the image's short side.
  dropout_rate, drop_path_rate: the model's own defaults.
  params: trainable parameters, exact. madds: multiply-adds of convolutions and dense layers.
  paper_params, paper_madds, paper_top1, paper_top5: as printed there (accuracies in percent).
  num_classes: of the published network. task: `classification`, `detection`, `segmentation`,
  `video`, `prediction` of films, or `text`, whose image_size is 0. tokens: of a text, for which the
  multiply-adds are; frames: of a clip.
  counted: height and width for which the multiply-adds are, if not those of a square of image_size.
  paper_ap: COCO box AP as printed there, in percent; paper_miou: mean IoU, in percent.
  """

  name: str
  build: Callable[..., nn.Module]
  paper: str | None
  image_size: int
  dropout_rate: float
  drop_path_rate: float
  params: int
  madds: float
  mean: tuple[float, float, float] = IMAGENET_MEAN
  std: tuple[float, float, float] = IMAGENET_STD
  crop_padding: int = 32
  interpolation: str = "bicubic"
  paper_params: float | None = None
  paper_madds: float | None = None
  paper_top1: float | None = None
  paper_top5: float | None = None
  num_classes: int = 1000
  task: str = "classification"
  counted: tuple[int, int] | None = None
  paper_ap: float | None = None
  paper_miou: float | None = None
  tokens: int | None = None
  frames: int | None = None

  @property
  def crop_fraction(self) -> float:
    """Side of the evaluation crop over the image's short side."""
    return self.image_size / (self.image_size + self.crop_padding)

  def settings(self) -> dict[str, Any]:
    """Returns the keyword arguments of `create` for this model, with their defaults."""
    parameters = inspect.signature(self.build).parameters
    return {name: p.default for name, p in parameters.items() if name != "num_classes"}


_ENTRIES: dict[str, Entry] = {}
_UNLISTED: set[str] = set()


def register(entry: Entry, *, listed: bool = True) -> Entry:
  """Returns `entry`, now known by its name.

  listed: whether `list_models` names it; not what is no network by itself.

  Raises: ValueError if the name is taken or not lower-case.
  """
  if entry.name in _ENTRIES or entry.name != entry.name.lower():
    raise ValueError(f"model name {entry.name!r} is taken or not lower-case.")
  _ENTRIES[entry.name] = entry
  if not listed:
    _UNLISTED.add(entry.name)
  return entry


def natural(name: str) -> list[tuple[int, str]]:
  """Returns a sorting key that puts b2 before b10."""
  return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
  """Returns the names that match the glob `pattern`, b2 before b10.

  task: of `Entry`; None for all.

  >>> list_models("efficientnet_b[0-2]")
  ['efficientnet_b0', 'efficientnet_b1', 'efficientnet_b2']
  """
  known = [name for name in _ENTRIES if name not in _UNLISTED]
  found = sorted(fnmatch.filter(known, pattern), key=natural)
  return [name for name in found if task in (None, _ENTRIES[name].task)]


def entry(name: str) -> Entry:
  """Returns what is known of the model `name`.

  Raises: UserError for an unknown name, with the nearest known ones.
  """
  if name not in _ENTRIES:
    raise errors.unknown("config.model.name", name, "a model", _ENTRIES, "`python -m effnets.zoo`")
  return _ENTRIES[name]


def _same_kind(key: str, value: Any, default: Any) -> bool:
  """Returns whether `value` can stand where `default` does."""
  if key == "dtype":  # given by its name or by itself
    return True
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(value, bool) and isinstance(default, bool)
  return isinstance(value, int | float if isinstance(default, float) else type(default))


def create(name: str, num_classes: int | None = None, **overrides: Any) -> nn.Module:
  """Returns the module of the model `name`.

  Args: num_classes: None for the paper's. overrides: any of `entry(name).settings()`.
  Raises: UserError for an unknown name or override, or an impossible value, naming the config key.
  """
  found = entry(name)
  if num_classes is None:
    num_classes = found.num_classes
  settings = {**found.settings(), "num_classes": found.num_classes}
  for key, value in {**overrides, "num_classes": num_classes}.items():
    if key not in settings:
      close = errors.nearest(key, settings)
      nearest = f" Nearest: {', '.join(map(repr, close))}." if close else ""
      raise errors.UserError(
        f"config.model.{key}={value!r}: {key!r} is not a setting of {name}.{nearest} "
        f"Valid: {', '.join(sorted(settings))}."
      )
    if not _same_kind(key, value, settings[key]):
      default = settings[key]
      raise errors.UserError(
        f"config.model.{key}={value!r} should be of type {type(default).__name__}, "
        f"such as {default!r}."
      )
  return found.build(num_classes=num_classes, **overrides)
