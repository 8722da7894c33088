"""Things made once for many readers."""

import pickle
import threading
from concurrent import futures

import pytest

from effnets.data import recent


def test_each_is_made_once_however_many_ask():
  made, inside = [], threading.Barrier(2)

  def make(index):
    made.append(index)
    inside.wait(timeout=10)  # two different ones are made at the same time
    return index * index

  things = recent.Recent(make)
  with futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(lambda i: things[i % 2 + 3], range(40))) == [9, 16] * 20
  assert sorted(made) == [3, 4]


def test_the_last_few_are_kept():
  made = []
  things = recent.Recent(lambda i: made.append(i) or i, count=2)
  for index in (0, 1, 1, 0, 2, 1, 2, 0):
    assert things[index] == index
  assert made == [0, 1, 2, 0]


def test_what_cannot_be_made_says_so_each_time():
  things = recent.Recent(lambda i: 1 // i)
  for _ in range(2):
    with pytest.raises(ZeroDivisionError):
      things[0]
  assert things[1] == 1


def test_a_copy_for_another_process_is_empty():
  things = recent.Recent(abs)
  assert things[-3] == 3
  copy = pickle.loads(pickle.dumps(things))
  assert copy[-4] == 4 and -3 not in copy._kept
