"""From films to clips that are continued: frames in a row, all of each picture's middle square.

A source of films gives examples with `film` (see `clips.Film`), which may know its `actions`:
`film.actions(numbers)` float32 (t, a), what is done at those frames and leads to the next ones.
`Sequences` makes of it the arrays of a batch:

  clip     uint8 (t, h, w, 3)
  actions  float32 (t, a), if asked for
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from effnets import errors
from effnets.data import clips, decode, sources

SHORT = ("refuse", "hold")


@dataclasses.dataclass(frozen=True)
class Sequences:
  """A transform from films to clips of `frames` frames.

  size: side in pixels, of the largest square in the middle. stride: frames of the film from one to
  the next. training: from a place drawn at random, else from the film's first frame on. actions:
  how many numbers each must have; 0: they are not read.
  short: what is done with a film that is shorter than a clip. `refuse`: it is unreadable, so that
  it is named and counted; `hold`: abc -> abccc, counted.
  """

  size: int
  frames: int
  stride: int = 1
  training: bool = False
  actions: int = 0
  short: str = "refuse"
  interpolation: str = "bilinear"
  shorts: clips.Shorts = dataclasses.field(default_factory=clips.Shorts, compare=False, repr=False)

  @property
  def fields(self) -> tuple[str, ...]:
    """Names of the arrays that it makes."""
    return ("clip", "actions") if self.actions else ("clip",)

  def __call__(self, example: sources.Example, draw: decode.Draw) -> sources.Example:
    """Returns the example with `fields`.

    Raises: sources.Unreadable; UserError if films know no actions and there should be some.
    """
    film = example["film"]
    needed = (self.frames - 1) * self.stride + 1
    room = film.frames - needed
    if film.frames < 1 or (room < 0 and self.short == "refuse"):
      raise sources.Unreadable(f"{film.name} (it has {film.frames} frames, a clip {needed})")
    if room < 0:
      self.shorts.add(film, needed, "whose last frame stands still")
    first = int(draw("clip").random() * (room + 1)) if self.training and room > 0 else 0
    numbers = np.minimum(first + np.arange(self.frames) * self.stride, film.frames - 1)
    found = {name: value for name, value in example.items() if name != "film"}
    frames = film.read(numbers)
    top, left, height, width = decode.centre_box(*frames.shape[1:3], 1.0)
    inside = frames[:, top : top + height, left : left + width]
    found["clip"] = np.stack([decode.resize(f, self.size, self.interpolation) for f in inside])
    if self.actions:
      found["actions"] = self._actions(film, numbers)
    return found

  def _actions(self, film: clips.Film, numbers: np.ndarray) -> Float[np.ndarray, "t a"]:
    if not hasattr(film, "actions"):
      raise errors.UserError(
        f"config.model.actions={self.actions}: films such as {film.name} come without actions; set "
        "it to 0."
      )
    actions = np.asarray(film.actions(numbers), np.float32)
    if actions.shape[1] != self.actions:
      raise sources.Unreadable(
        f"{film.name} (its actions are of {actions.shape[1]} numbers, config.model.actions="
        f"{self.actions})"
      )
    if not np.isfinite(actions).all():
      raise sources.Unreadable(f"{film.name} (its actions are not all finite)")
    return actions
