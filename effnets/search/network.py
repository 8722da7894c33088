"""Networks found by a search, as a model like any other: `config.model.name="searched"`.

`config.model` then holds `space`, `space_options` (JSON), `tokens`, and settings of the network
such as `dropout_rate`; what a run leaves is complete without the study that found it.
"""

import functools
import inspect
import json
import pathlib
from typing import Any

import flax.linen as nn
import ml_collections

from effnets import errors, models
from effnets.models import families
from effnets.search import space as space_lib
from effnets.search import spaces

NAME = "searched"
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
  tokens = tokens or next(iter(made.published.values()), ()) or (0,) * len(made)
  with errors.context("config.model.tokens"):
    return spaces.network(made, tokens, num_classes, **overrides)


def _signature() -> inspect.Signature:
  """Returns what the model takes: the place in a space, and what any classifier's table does."""
  own = [p for p in inspect.signature(_build).parameters.values() if p.kind is p.KEYWORD_ONLY]
  left_out = {"table", "num_classes", "width", "depth", "small_images", "kernels", "partition"}
  more = [
    p.replace(kind=p.KEYWORD_ONLY)
    for name, p in inspect.signature(families.build).parameters.items()
    if name not in left_out
  ]
  return inspect.Signature([*own, *more])


_build.__signature__ = _signature()
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


def set_tokens(config: Any, space: space_lib.Space, tokens: tuple[int, ...]) -> None:
  """Makes `config.model` the network of `tokens`; its other settings stay.

  A space whose points are no stage tables has a method `configure(config, tokens)` of its own.
  """
  if hasattr(space, "configure"):
    space.configure(config, tokens)
    return
  with config.unlocked(), config.ignore_type():
    config.model.name = NAME
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
