"""Networks found by a search, as a model like any other: `config.model.name="searched"`.

`config.model` then holds `space`, `space_options` (JSON), `tokens`, and settings of the network
such as `dropout_rate`; what a run leaves is complete without the study that found it. Detectors are
`searched_detector`, networks of clips `searched_clips`; `model` says of which registered one the
rest is taken.
"""

import dataclasses
import functools
import inspect
import json
import pathlib
from typing import Any

import flax.linen as nn
import ml_collections
import numpy as np

from effnets import errors, models
from effnets.models import families, spinenet
from effnets.search import space as space_lib
from effnets.search import spaces

NAME, DETECTOR, CLIPS = "searched", "searched_detector", "searched_clips"
_NAMES = {"detection": DETECTOR, "video": CLIPS}
_KINDS = {NAME: "classifiers", DETECTOR: "detectors", CLIPS: "networks of clips"}
_OF_SPACE = ("space", "space_options", "tokens")


@functools.lru_cache(maxsize=64)
def space_of(name: str, options: str = "") -> space_lib.Space:
  """Returns a space by `config.model.space` and `space_options`, a JSON object.

  Raises: UserError.
  """

  def plain(value):
    return tuple(map(plain, value)) if isinstance(value, list) else value

  try:
    given = json.loads(options or "{}")
    return spaces.create(name, **{key: plain(value) for key, value in given.items()})
  except (json.JSONDecodeError, AttributeError, TypeError) as error:
    raise errors.UserError(
      f"config.model.space_options={options!r} is no JSON object of the space's settings: {error}."
    ) from error


def _build(
  *,
  num_classes: int = 1000,
  space: str = "mnas",
  space_options: str = "",
  tokens: tuple[int, ...] = (),
  **overrides: Any,
) -> nn.Module:
  made = space_of(space, space_options)
  with errors.context("config.model.tokens"):
    return spaces.network(made, tokens or first(made), num_classes, **overrides)


def first(space: space_lib.Space) -> tuple[int, ...]:
  """Returns one point of a space: that of a published network where there is one."""
  known = next(iter(space.published.values()), ())
  if known or not space.flat:
    return known or space.sample(np.random.default_rng(0))
  return (0,) * len(space)


def _like(task: str, what: str, others: str, default: str, space: str, num_classes: int) -> Any:
  """Returns what builds networks that are a registered `model` of `task` but for the found part.

  what: such a model, in words. others: registered, whose settings are to be had. default, space,
  num_classes: defaults.
  """

  def build(
    *,
    num_classes: int = num_classes,
    model: str = default,
    space: str = space,
    space_options: str = "",
    tokens: tuple[int, ...] = (),
    **overrides: Any,
  ) -> nn.Module:
    if models.entry(model).task != task:
      raise errors.unknown("config.model.model", model, what, models.list_models(task=task))
    made = space_of(space, space_options)
    tokens = tokens or first(made)
    with errors.context("config.model.tokens"):
      return spaces.network(made, tokens, num_classes, model=model, **overrides)

  # Widths too are a space's own or the detector's; a space refuses what it decides.
  decided = {
    "backbone",
    "backbone_graph",
    "nodes",
    "blocks",
    "expanded",
    "pyramid",
    "graph",
    "kept",
  }
  signature = _signature(build, inspect.signature(models.entry(others).build), decided)
  build.__signature__ = signature
  return build


def _signature(build: Any, others: inspect.Signature, left_out: set[str]) -> inspect.Signature:
  """Returns what a model takes: the place in a space, and what others of its kind do."""
  own = [p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
  more = [
    p.replace(kind=p.KEYWORD_ONLY)
    for name, p in others.parameters.items()
    if name not in {"num_classes", *left_out}
  ]
  return inspect.Signature([*own, *more])


_build.__signature__ = _signature(
  _build,
  inspect.signature(families.build),
  {"table", "width", "depth", "small_images", "kernels", "partition"},
)
models.registry.register(
  models.Entry(
    name=NAME,
    build=_build,
    paper=None,
    image_size=224,
    dropout_rate=0.2,
    drop_path_rate=0.0,
    params=3_887_038,
    madds=311.58e6,
  ),
  listed=False,
)
models.registry.register(
  models.Entry(
    name=DETECTOR,
    build=_like(
      "detection",
      "a detector",
      "retinanet_spinenet_tiny",
      "retinanet_spinenet_tiny",
      "spinenet_tiny",
      11,
    ),
    paper=None,
    image_size=128,
    dropout_rate=0.0,
    drop_path_rate=0.0,
    params=213_711,
    madds=43.704e6,
    num_classes=11,
    task="detection",
  ),
  listed=False,
)
models.registry.register(
  dataclasses.replace(
    models.entry("assemblenet_tiny"),
    name=CLIPS,
    build=_like(
      "video", "a network of clips", "assemblenet_tiny", "assemblenet_tiny", "assemblenet_tiny", 8
    ),
  ),
  listed=False,
)

# The proxy of SpineNet's search: a quarter of the channels. Source: Du et al. 2020, section 4.
models.registry.register(
  models.Entry(
    name="spinenet_proxy",
    build=functools.partial(
      spinenet.build, widths=spinenet.Widths(scale=0.25, alpha=0.25, endpoint=64)
    ),
    paper=None,
    image_size=224,
    dropout_rate=0.0,
    drop_path_rate=0.0,
    params=1_234_761,
    madds=296.749e6,
    num_classes=1001,
  ),
  listed=False,
)
_OF_49 = models.entry("retinanet_spinenet_49")
_PROXY = {"backbone": "spinenet_proxy", "width": 64, "image_size": 512}
models.registry.register(
  dataclasses.replace(
    _OF_49,
    name="retinanet_spinenet_proxy",
    build=functools.partial(_OF_49.build, **_PROXY),
    image_size=512,
    paper=None,
    paper_params=None,
    paper_madds=None,
    paper_ap=None,
    params=1_963_575,
    madds=5841.681e6,
  ),
  listed=False,
)


def section(space: str) -> ml_collections.ConfigDict:
  """Returns `config.model` of a network in `space`, yet to be chosen: until then one of it."""
  return ml_collections.ConfigDict(
    {
      "name": NAME,
      "space": space,
      "space_options": "",
      "tokens": (),
      "dropout_rate": 0.0,
      "drop_path_rate": 0.0,
      "padding": "SAME",
      "dtype": "float32",
      "remat": "none",
      "frozen_blocks": 0,
    }
  )


def into_space(config: Any, space: str) -> None:
  """Makes the network of `config.model` one that is yet to be chosen in `space`.

  It is a detector or a network of clips; the task says which.
  """
  model = config.model.name
  with config.unlocked():
    config.model.update({"name": _NAMES[config.task.name], "model": model, "space": space})
    config.model.update({"space_options": "", "tokens": ()})


def _of(space: space_lib.Space) -> str:
  if isinstance(space, spaces.tables.TableSpace):
    return NAME
  return CLIPS if isinstance(space, spaces.assembly.AssemblySpace) else DETECTOR


def counted(config: Any, space: space_lib.Space) -> dict[str, Any]:
  """Returns what `cost.of` needs beside tokens to count the networks of `config` in `space`."""
  if isinstance(space, spaces.tables.TableSpace):
    return {}
  # What is masked is counted as what it would be on its own.
  left_out = {"name", *_OF_SPACE, "remat", "frozen_blocks", "masked"}
  return {key: value for key, value in config.model.items() if key not in left_out}


def set_tokens(config: Any, space: space_lib.Space, tokens: tuple[int, ...]) -> None:
  """Makes `config.model` the network of `tokens`; its other settings stay.

  Raises: UserError if the space's points are of another kind than what the config's task trains.
  """
  name, made = _NAMES.get(config.task.name, NAME), _of(space)
  if name != made:
    raise errors.UserError(
      f"the space {space.name!r} is one of {_KINDS[made]}, config.task.name={config.task.name!r}."
    )
  with config.unlocked(), config.ignore_type():
    config.model.name = name
    config.model.space = space.name
    config.model.space_options = json.dumps(space.settings, sort_keys=True)
    config.model.tokens = tuple(map(int, tokens))


def read(text: str) -> dict[str, Any]:
  """Returns one network of what a search left, `FILE[:RANK]`, the best one first.

  It has `space`, `space_options`, `space_version`, `tokens`, `reward` and `values`.

  Raises: UserError if there is none, or if it is not of this code's space.
  """
  name, _, rank = text.rpartition(":") if ":" in text else (text, "", "1")
  path = pathlib.Path(name if rank.isdigit() else text)
  rank = int(rank) if rank.isdigit() else 1
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    top = found["top"]
  except OSError as error:
    raise errors.UserError(
      f"config.arch={text!r} cannot be read ({error.strerror}); give the best.json of a search."
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(f"config.arch={text!r} is no best.json of a search.") from error
  if not 1 <= rank <= len(top):
    raise errors.UserError(f"config.arch={text!r}: {path} has the ranks 1 to {len(top)}.")
  chosen = {**found["space"], **top[rank - 1]}
  with errors.context(f"config.arch={text!r}"):
    made = space_of(chosen["space"], chosen["space_options"])
    made.check_version(chosen["space_version"])
  return chosen


def configure(config: Any, text: str) -> None:
  """Makes `config.model` the network that `config.arch` names; see `read`."""
  chosen = read(text)
  set_tokens(config, space_of(chosen["space"], chosen["space_options"]), tuple(chosen["tokens"]))
  if "arch" in config:
    with config.unlocked():
      config.arch = text
