"""The last few of many things that are slow to make, for readers that come roughly in order."""

import collections
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Recent(Generic[Thing]):
  """`recent[i]` is `make(i)`, made once and kept until `count` others were asked for.

  Threads that want the same one wait for it; those that want different ones make them at once. What
  `make` raises, all of them get. Copies, as for other processes, begin empty.
  """

  def __init__(self, make: Callable[[int], Thing], *, count: int = 8):
    """Takes the function and how many results are kept."""
    self._make, self._count = make, count
    self._empty()

  def _empty(self) -> None:
    self._kept: collections.OrderedDict[int, futures.Future] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __getitem__(self, index: int) -> Thing:
    with self._lock:
      future = self._kept.get(index)
      ours = future is None
      if ours:
        future = self._kept[index] = futures.Future()
        while len(self._kept) > self._count:
          self._kept.popitem(last=False)
    if ours:
      try:
        future.set_result(self._make(index))
      except BaseException as error:
        future.set_exception(error)
    return future.result()

  def __getstate__(self):
    return {"_make": self._make, "_count": self._count}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._empty()
