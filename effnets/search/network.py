"""Networks found by a search, as a model like any other: `config.model.name="searched"`.

`config.model` then holds `space`, `space_options` (JSON), `tokens`, and settings of the network
such as `dropout_rate`; what a run leaves is complete without the study that found it. Detectors are
`searched_detector`, and `model` says of which registered one the rest is taken.
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

NAME, DETECTOR = "searched", "searched_detector"
_OF_SPACE = ("space", "space_options", "tokens")


@functools.lru_cache(maxsize=64)
def _space(name: str, options: str) -> space_lib.Space:
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
  made = _space(space, space_options)
  with errors.context("config.model.tokens"):
    return spaces.network(made, tokens or first(made), num_classes, **overrides)


def first(space: space_lib.Space) -> tuple[int, ...]:
  """Returns one point of a space: that of a published network where there is one."""
  known = next(iter(space.published.values()), ())
  if known or not space.flat:
    return known or space.sample(np.random.default_rng(0))
  return (0,) * len(space)


def _build_detector(
  *,
  num_classes: int = 11,
  model: str = "retinanet_spinenet_tiny",
  space: str = "spinenet_tiny",
  space_options: str = "",
  tokens: tuple[int, ...] = (),
  **overrides: Any,
) -> nn.Module:
  if models.entry(model).task != "detection":
    known = models.list_models(task="detection")
    raise errors.unknown("config.model.model", model, "a detector", known)
  made = _space(space, space_options)
  tokens = tokens or first(made)
  with errors.context("config.model.tokens"):
    return spaces.network(made, tokens, num_classes, model=model, **overrides)


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
# Widths too are a space's own or the detector's; a space refuses what it decides.
_build_detector.__signature__ = _signature(
  _build_detector,
  inspect.signature(models.entry("retinanet_spinenet_tiny").build),
  {"backbone", "backbone_graph", "nodes", "blocks", "expanded", "pyramid"},
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
    build=_build_detector,
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
  """Makes the detector of `config.model` one that is yet to be chosen in `space`."""
  model = config.model.name
  with config.unlocked():
    config.model.update({"name": DETECTOR, "model": model, "space": space})
    config.model.update({"space_options": "", "tokens": ()})


def counted(config: Any, space: space_lib.Space) -> dict[str, Any]:
  """Returns what `cost.of` needs beside tokens to count the networks of `config` in `space`."""
  if isinstance(space, spaces.tables.TableSpace):
    return {}
  left_out = {"name", *_OF_SPACE, "remat", "frozen_blocks"}
  return {key: value for key, value in config.model.items() if key not in left_out}


def set_tokens(config: Any, space: space_lib.Space, tokens: tuple[int, ...]) -> None:
  """Makes `config.model` the network of `tokens`; its other settings stay.

  Raises: UserError if the space's points are detectors' and the config's task is none, or if it is
  the other way round.
  """
  detects = config.task.name == "detection"
  if detects == isinstance(space, spaces.tables.TableSpace):
    kind = "classifiers" if detects else "detectors"
    raise errors.UserError(
      f"the space {space.name!r} is one of {kind}, config.task.name={config.task.name!r}."
    )
  with config.unlocked(), config.ignore_type():
    config.model.name = DETECTOR if detects else NAME
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
    made = _space(chosen["space"], chosen["space_options"])
    made.check_version(chosen["space_version"])
  return chosen


def configure(config: Any, text: str) -> None:
  """Makes `config.model` the network that `config.arch` names; see `read`."""
  chosen = read(text)
  set_tokens(config, _space(chosen["space"], chosen["space_options"]), tuple(chosen["tokens"]))
  if "arch" in config:
    with config.unlocked():
      config.arch = text
