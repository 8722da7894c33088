"""Input is read while programs are compiled: nothing here is compiled to the end."""

import time

import pytest

from effnets import data, training
from effnets.training import assembly, evaluator
from tests.data import fakes
from tests.training import evaluator_test, tiny


class Compiling(Exception):
  """Raised where the compiler would begin, once enough was read."""


def wait_until(condition, seconds=30):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "nothing was read while the program was being compiled"
    time.sleep(0.01)
  raise Compiling


def test_a_training_reads_while_its_update_is_compiled(monkeypatch, tmp_path):
  read = set()
  real = data.Stream.read
  monkeypatch.setattr(data.Stream, "read", lambda s, n: read.add(n) or real(s, n))
  # Two batches: the first alone might be read for its shapes.
  monkeypatch.setattr(assembly.Program, "lower", lambda *_: wait_until(lambda: len(read) >= 32))
  with pytest.raises(Compiling):
    training.train(tiny.get_config(), tmp_path)


def test_an_evaluation_reads_while_its_program_is_compiled(monkeypatch):
  read = set()
  real = fakes.Numbered.__getitem__
  monkeypatch.setattr(fakes.Numbered, "__getitem__", lambda s, i: read.add(i) or real(s, i))
  monkeypatch.setattr(
    evaluator.Predictor, "compile", lambda *_: wait_until(lambda: read == set(range(37)))
  )
  _, predictor, variables, _ = evaluator_test.make({"data": 1})
  with pytest.raises(Compiling):
    predictor.all(variables, fakes.Numbered(37, classes=6))
