"""SIGTERM as a request."""

import os
import signal
import threading

import pytest

from effnets.training import signals


def test_sigterm_is_a_request_inside_and_what_it_was_outside():
  earlier = []
  before = signal.signal(signal.SIGTERM, lambda *_: earlier.append(1))
  try:
    with signals.StopSignal() as stop:
      assert not stop.requested(1)
      os.kill(os.getpid(), signal.SIGTERM)
      assert stop.requested(2) and stop.requested(3)
    assert not earlier
    os.kill(os.getpid(), signal.SIGTERM)
    assert earlier == [1]
  finally:
    signal.signal(signal.SIGTERM, before)


def test_a_request_that_came_too_late_is_passed_on():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(signals.Stopped, match="the same command goes on"):
    with signals.stopping():
      with signals.StopSignal() as stop:
        assert not stop.requested(9)
        os.kill(os.getpid(), signal.SIGTERM)
      pytest.fail("went on")
  with pytest.raises(signals.Stopped):
    with signals.stopping():
      os.kill(os.getpid(), signal.SIGTERM)
      pytest.fail("went on")
  assert signal.getsignal(signal.SIGTERM) is before


def test_an_exception_restores_the_handler_too():
  before = signal.getsignal(signal.SIGTERM)
  try:
    with signals.StopSignal():
      raise KeyError
  except KeyError:
    pass
  assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_than_the_main_one_take_no_signals():
  before = signal.getsignal(signal.SIGTERM)
  answers = []

  def work():
    with signals.StopSignal() as stop:
      answers.append((stop.requested(1), signal.getsignal(signal.SIGTERM) is before))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert answers == [(False, True)]
