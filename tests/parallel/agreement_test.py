"""Processes that compare what they do: threads with a coordinator in memory."""

import threading

import pytest

from effnets import errors
from effnets.parallel import agreement


class Coordinator:
  """As much of JAX's distributed client as is used, for several threads."""

  def __init__(self, count):
    self._values, self._barrier = {}, threading.Barrier(count)
    self._set = threading.Condition()

  def key_value_set(self, key, value, allow_overwrite=False):
    with self._set:
      assert allow_overwrite or key not in self._values
      self._values[key] = value
      self._set.notify_all()

  def blocking_key_value_get(self, key, milliseconds):
    with self._set:
      if not self._set.wait_for(lambda: key in self._values, milliseconds / 1000):
        raise RuntimeError("DEADLINE_EXCEEDED: nobody answered\nmore")
      return self._values[key]

  def key_value_dir_get(self, key):
    return [(k, v) for k, v in self._values.items() if k.startswith(key)]

  def wait_at_barrier(self, name, milliseconds):
    self._barrier.wait(milliseconds / 1000)


def check_all(settings):
  """Returns the message of each process, or None."""
  client, messages = Coordinator(len(settings)), [None] * len(settings)

  def process(index):
    try:
      agreement.check(client, index, len(settings), settings[index])
    except errors.UserError as error:
      messages[index] = str(error)

  threads = [threading.Thread(target=process, args=(i,)) for i in range(len(settings))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return messages


def test_equal_processes_go_on():
  # JSON has no tuples: what was read from a file is equal to what was given.
  assert check_all([{"a": (1, 2)}, {"a": [1, 2]}, {"a": (1, 2)}]) == [None] * 3


def test_every_process_tells_what_differs():
  same = {"config.seed": 1, "config.x": "y"}
  messages = check_all([same, same, {**same, "config.seed": 2}, {"config.seed": 1}])
  assert len(set(messages)) == 1
  assert messages[0].startswith(
    "The 4 processes of this run differ: config.seed: 1 in process 0, 2 in process 2 "
    "(1 more processes differ too). Start the same command with the same effnets and libraries"
  )
  (message, _) = check_all([same, {"config.seed": 1}])
  assert "config.x: 'y' in process 0, None in process 1. Start" in message
  (message, _) = check_all([{}, {f"k{i}": i for i in range(9)}])
  assert "k5: None in process 0, 5 in process 1; and 3 more. Start" in message


def test_other_libraries_and_no_answer(monkeypatch):
  versions = iter([{"version of jax": "0.10.2"}, {"version of jax": "0.11.0"}])
  monkeypatch.setattr(agreement, "code", lambda: next(versions))
  messages = check_all([{}, {}])
  assert messages[0] == messages[1] and "version of jax: '0.1" in messages[0]
  monkeypatch.undo()
  monkeypatch.setattr(agreement, "TIMEOUT_SECONDS", 0.05)
  with pytest.raises(errors.UserError, match="The 2 processes .* in 0.05 s .*nobody answered"):
    agreement.check(Coordinator(2), 1, 2, {})


def test_sources_are_known_by_name_and_content(tmp_path):
  (tmp_path / "room").mkdir()
  file = tmp_path / "room" / "a.py"
  file.write_text("x = 1\n")
  first = agreement.sources_hash(tmp_path)
  (tmp_path / "room" / "a.pyc").write_text("compiled")
  assert agreement.sources_hash(tmp_path) == first
  file.write_text("x = 2\n")
  second = agreement.sources_hash(tmp_path)
  file.rename(tmp_path / "room" / "b.py")
  assert len({first, second, agreement.sources_hash(tmp_path)}) == 3
