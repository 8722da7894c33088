"""What becomes of a process when another leaves, without anything to compile."""

import os
import socket
import subprocess
import sys
import time

import pytest

from effnets.parallel import relay, watch
from tests.training import tiny

# Waits for the others, or leaves by an error.
_PROCESS = """
import sys, time
from effnets import errors, main, parallel
def work(argv):
  given = {"coordinator": argv[1], "process_id": int(argv[2])} if argv[1] else {}
  parallel.initialize(num_processes=2, **given)
  with parallel.together():
    if argv[3] == "mistake":
      raise errors.UserError("config.x is wrong.")
    time.sleep(float(argv[3]))
main.main = work
sys.exit(main.run(sys.argv))
"""


def run(*roles, environments=({}, {}), address=None):
  """Returns (status, output) of two processes and the seconds they took."""
  address = f"127.0.0.1:{tiny.free_port()}" if address is None else address
  before = time.monotonic()
  children = [
    subprocess.Popen(
      [sys.executable, "-c", _PROCESS, address, str(index), role],
      cwd=tiny.ROOT,
      env={**os.environ, **environments[index]},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index, role in enumerate(roles)
  ]
  outputs = [child.communicate(timeout=120)[0] for child in children]
  return [(c.returncode, o) for c, o in zip(children, outputs, strict=True)], (
    time.monotonic() - before
  )


@pytest.mark.slow
@pytest.mark.parametrize("mistaken", [0, 1])
def test_a_mistake_of_one_ends_the_other(mistaken):
  roles = ["100", "100"]
  roles[mistaken] = "mistake"
  ended, seconds = run(*roles)
  for index, (status, output) in enumerate(ended):
    who = "" if index == mistaken else f"Process {mistaken} of 2: "
    assert status == 2 and f"Error: {who}config.x is wrong.\n" in output, output
    assert "Traceback" not in output and "stack trace" not in output
  assert seconds < 60


@pytest.mark.slow
def test_an_orderly_end_is_no_loss():
  ended, _ = run("0", "3")
  assert [status for status, _ in ended] == [0, 0], ended
  assert not any("Error" in output for _, output in ended), ended


@pytest.mark.slow
def test_processes_find_each_other_under_slurm():
  environments = [
    {
      "SLURM_JOB_ID": str(tiny.free_port()),  # of which the coordinator's port is made
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(index),
      "SLURM_LOCALID": str(index),
    }
    for index in range(2)
  ]
  environments[1]["SLURM_JOB_ID"] = environments[0]["SLURM_JOB_ID"]
  ended, _ = run("100", "mistake", environments=environments, address="")
  assert [status for status, _ in ended] == [2, 2], ended
  assert "Error: Process 1 of 2: config.x is wrong.\n" in ended[0][1], ended


@pytest.mark.parametrize("hidden", [True, False])
def test_a_relay_forwards_and_hides_a_broken_connection_if_told(hidden):
  server, told = socket.create_server(("127.0.0.1", 0)), []

  def broken():
    told.append(1)
    return hidden

  made = relay.Relay(f"127.0.0.1:{server.getsockname()[1]}", broken)
  with socket.create_connection(("127.0.0.1", made.port), timeout=5) as client:
    other, _ = server.accept()
    for size in (3, 10**6):
      client.sendall(b"x" * size)
      got = b""
      while len(got) < size:
        got += other.recv(2**16)
      other.sendall(got[:3])
      assert client.recv(3) == b"xxx"
    assert not told
    other.close()
    client.settimeout(1.0)
    if hidden:
      with pytest.raises(TimeoutError):
        client.recv(1)
    else:
      assert client.recv(1) == b""
    assert told


def test_who_is_lost_and_who_has_left():
  class Client(dict):
    def key_value_set(self, key, value, allow_overwrite=False):
      if not allow_overwrite and key in self:
        raise RuntimeError("ALREADY_EXISTS")
      self[key] = value

    def key_value_dir_get(self, key):
      return [(k, v) for k, v in self.items() if k.startswith(key)]

  def judged(beats, left, silent):
    """silent: index -> seconds since its last new sign."""
    client = Client({f"effnets/beat/{i}": v for i, v in beats.items()})
    client.update({f"effnets/left/{i}": v for i, v in left.items()})
    this = watch.Watch(0, 3, "")
    this._client = client
    now = time.monotonic()
    this._judge({i: ("7", now - silent.get(i, 0)) for i in range(3)})
    return client.get("effnets/verdict/0")

  same, late = dict.fromkeys(range(3), "7"), watch.LOST_SECONDS + 1
  assert judged(same, {}, {1: watch.LOST_SECONDS - 1}) is None
  assert judged(same, {}, {2: late}).startswith("0\n75\nProcess 2 of 3 is lost (no sign of life")
  # Others may be held up by it, and fall silent in turn.
  assert judged(same, {}, {1: late + 1, 2: late}).startswith("0\n75\nProcess 1 of 3 is lost")
  assert judged({**same, 2: "8"}, {}, {2: late}) is None  # it has just given one
  assert judged(same, {2: "0\n"}, {2: late}) is None  # it is done
  verdict = judged(same, {1: "1\nValueError: x"}, {})
  assert verdict.startswith("10.0\n75\nProcess 1 of 3 ended by an error (ValueError: x). Start")
