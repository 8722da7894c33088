"""The likeliest classes of pictures and films: on the terminal, and all of them in a file."""

import collections
import csv
import dataclasses
import pathlib
from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Float
from rich import console as rich_console

from effnets import workdirs

FILE = "predictions.csv"

_BEST = 5
_SHOWN = 20  # of a folder that are printed; the file has them all


@dataclasses.dataclass(frozen=True)
class Likeliest:
  """The likeliest classes of a picture or film. best: (class name, probability), best first."""

  name: str
  best: tuple[tuple[str, float], ...]


def best(
  logits: Float[np.ndarray, " k"],
  names: tuple[str, ...],
  count: int = _BEST,
  *,
  several: bool = False,
) -> tuple[tuple[str, float], ...]:
  """Returns the `count` likeliest classes with their softmax probabilities.

  several: whether it may be of several classes; probabilities then are each class's own, a sigmoid.

  >>> best(np.log([0.2, 0.5, 0.3]), ("ant", "bee", "cow"), 2)[0][0]
  'bee'
  >>> best(np.log([9.0, 1.0]), ("ant", "bee"), several=True)
  (('ant', 0.9), ('bee', 0.5))
  """
  logits = logits.astype(np.float64)
  if several:
    shares = np.exp(-np.logaddexp(0, -logits))
  else:
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
  order = np.argsort(-shares, kind="stable")[:count]
  return tuple((names[i], float(shares[i])) for i in order)


def write(workdir: str, found: Iterable[Likeliest], count: int, *, what: str, model: str) -> None:
  """Writes `predictions.csv`, as they are made, and prints the first of them.

  All processes work at it, the first one tells.
  count: of classes. what: `picture` or `film`, the first column. model: where it comes from.
  """
  if jax.process_index():
    collections.deque(found, maxlen=0)
    return
  shown, seen = [], 0
  with workdirs.writing(workdir, FILE, newline="") as file:
    writer = csv.writer(file)
    ranks = range(1, min(_BEST, count) + 1)
    writer.writerow([what, *(f"{cell}_{i}" for i in ranks for cell in ("class", "probability"))])
    for one in found:
      cells = (cell for name, share in one.best for cell in (name, f"{share:.6f}"))
      writer.writerow([one.name, *cells])
      shown += [one] if seen < _SHOWN else []
      seen += 1
  more = f" {seen - _SHOWN} more are in it." if seen > _SHOWN else ""
  end = f"{model}: {pathlib.Path(workdir) / FILE} written.{more}"
  text = "\n".join([*map(_lines, shown), end])
  rich_console.Console().print(text, soft_wrap=True, highlight=False, markup=False)


def _lines(found: Likeliest) -> str:
  rows = (f"  {share:6.1%}  {name}" for name, share in found.best)
  return "\n".join([found.name, *rows])
