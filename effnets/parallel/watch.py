"""Watches over the other processes of a run: one that is lost ends all others, with one message.

What spans processes waits for all of them, for ever if one is gone. So every process gives a sign
of life each second, in the coordinator of JAX that process 0 holds; process 0 looks at all of them.

- A process that has given none for `LOST_SECONDS` is lost: it was killed, its machine is gone, or
  it stands still. All others say so and exit with status `LOST_STATUS` within `TOLD_SECONDS` of its
  last sign, wherever they are. If it is process 0 that is lost, its broken connection tells, at
  once where the operating system closes it.
- A process that ends by an error of its own tells the others why; those that have not ended by
  themselves `GRACE_SECONDS` later say so and exit, with status 2 after a user's mistake, else with
  `LOST_STATUS`.

Checkpoints are whole or not there, so the same command on all processes continues from the last.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from effnets import errors
from effnets.parallel import relay as relays

BEAT_SECONDS = 1.0
LOST_SECONDS = 20.0
"""Without a sign of life a process is lost; longer than anything that stops all its threads."""
GRACE_SECONDS = 10.0
TOLD_SECONDS = 30.0
LOST_STATUS = 75
"""The EX_TEMPFAIL of sysexits.h: the same command may be tried again."""

_BEATS, _LEFT, _VERDICT = "effnets/beat/", "effnets/left/", "effnets/verdict/"
_AGAIN = "Start all processes again by the same command; it continues from the last checkpoint."


class Watch:
  """The watch of this process, on a thread of its own."""

  def __init__(self, index: int, count: int, address: str):
    """Prepares it; `start` it once the others are joined.

    index, count: of this process, of all. address: `host:port` of the coordinator; empty if it is
    not known, then a loss of process 0 is told by JAX in its own way.
    """
    self._index, self._count = index, count
    self._lock = threading.Lock()
    self._client: Any = None
    self._ending = False
    self._status: int | None = None
    self._joined = threading.Event()
    self._stopped = threading.Event()
    self._threads: list[threading.Thread] = []
    self._relay = relays.Relay(address, self._broken) if index and address else None

  @property
  def address(self) -> str:
    """Where this process finds the coordinator, instead of at its own address; or empty."""
    return f"127.0.0.1:{self._relay.port}" if self._relay else ""

  def start(self, client: Any) -> None:
    """Starts the watch. client: JAX's, connected to the coordinator."""
    self._client = client
    self._joined.set()
    self._run("effnets-beat", self._beat)
    self._run("effnets-watch", self._look)
    atexit.register(self._at_exit)  # after JAX's own clean-up, so it runs before that

  def leave(self, status: int, why: str) -> None:
    """Tells the others that this process ends, and why."""
    self._ending, self._status = True, status or None
    with contextlib.suppress(Exception):
      self._client.key_value_set(f"{_LEFT}{self._index}", f"{status}\n{why}", True)

  def _run(self, name: str, target: Callable[..., None], *args: Any) -> None:
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    self._threads = [t for t in self._threads if t.is_alive()] + [thread]
    thread.start()

  def _stop(self) -> None:
    """Waits for the threads: one that comes back from JAX to a closed interpreter aborts it."""
    self._stopped.set()
    end = time.monotonic() + GRACE_SECONDS
    for thread in self._threads:
      thread.join(max(0.0, end - time.monotonic()))

  def _beat(self) -> None:
    number = 0
    while not self._stopped.is_set():
      with contextlib.suppress(Exception):  # a coordinator that is gone is noticed elsewhere
        self._client.key_value_set(f"{_BEATS}{self._index}", str(number), True)
      number += 1
      self._stopped.wait(BEAT_SECONDS)

  def _look(self) -> None:
    seen = {index: ("", time.monotonic()) for index in range(self._count)}
    while not self._stopped.wait(BEAT_SECONDS):
      if self._relay and time.monotonic() - self._relay.heard > LOST_SECONDS:
        self._end(LOST_STATUS, _lost(0, self._count))
      # A call would wait long for a coordinator that is silent, and so would this thread.
      self._run("effnets-ask", self._ask, seen)

  def _ask(self, seen: dict[int, tuple[str, float]]) -> None:
    if not self._lock.acquire(blocking=False):
      return
    try:
      if self._index == 0:
        self._judge(seen)
      told = dict(self._client.key_value_dir_get(_VERDICT))
    except Exception:
      return
    finally:
      self._lock.release()
    if not told or self._ending:
      return
    grace, status, text = next(iter(told.values())).split("\n", 2)
    wait = float(grace) + (3 * BEAT_SECONDS if self._index == 0 else 0)  # all others ask it first
    end = time.monotonic() + wait
    while time.monotonic() < end and not self._ending:
      time.sleep(0.1)
    self._end(int(status), text)

  def _judge(self, seen: dict[int, tuple[str, float]]) -> None:
    """Publishes the first process that is lost or has left by an error."""
    beats = _by_index(self._client.key_value_dir_get(_BEATS))
    left = _by_index(self._client.key_value_dir_get(_LEFT))
    now = time.monotonic()
    verdict = ""
    for index, text in left.items():
      status, _, why = text.partition("\n")
      if status != "0":
        mistake = status == "2"
        words = why if mistake else f"ended by an error ({why}). {_AGAIN}"
        text = f"Process {index} of {self._count}{': ' if mistake else ' '}{words}"
        verdict = f"{GRACE_SECONDS}\n{2 if mistake else LOST_STATUS}\n{text}"
    silent = {}
    for index, (beat, when) in seen.items():
      if beats.get(index, "") != beat:
        seen[index] = (beats[index], now)
      elif now - when > LOST_SECONDS and index not in left:
        silent[index] = when
    if silent:
      # Whom others wait for may hold them up too; the first to fall silent is the cause.
      verdict = f"0\n{LOST_STATUS}\n{_lost(min(silent, key=silent.get), self._count)}"
    if verdict:
      with contextlib.suppress(Exception):  # the first one stands
        self._client.key_value_set(f"{_VERDICT}0", verdict)

  def _broken(self) -> bool:
    """The connection to process 0 is gone; returns whether JAX is not to know."""
    if not self._joined.is_set():
      return False
    if not self._ending:
      self._end(LOST_STATUS, _lost(0, self._count, how="its connection is broken"))
    return self._status is not None  # after an orderly end JAX closes it itself

  def _end(self, status: int, text: str) -> None:
    """Ends this process here and now, unless it ends by itself."""
    if self._ending:
      return
    self._ending = True
    with contextlib.suppress(Exception):
      sys.stdout.flush()
    sys.stderr.write(f"\nError: {text}\n")
    sys.stderr.flush()
    os._exit(status)

  def _at_exit(self) -> None:
    if self._status is None:
      self.leave(0, "")
      # JAX would do this next, and wait in it for those still at work, over which this watches.
      jax.distributed.shutdown()
      self._stop()
      return
    # JAX would wait for the others, which may never come, and then abort.
    end = time.monotonic() + GRACE_SECONDS + 5 * BEAT_SECONDS
    while self._index == 0 and time.monotonic() < end:
      with contextlib.suppress(Exception):
        if len(self._client.key_value_dir_get(_LEFT)) == self._count:
          break
      time.sleep(0.2)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(self._status)


_watches: list[Watch] = []  # the one of this process, if it is not alone


def begin(watch: Watch, client: Any) -> None:
  """Starts `watch` as that of this process. client: JAX's."""
  watch.start(client)
  _watches.append(watch)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Tells the run's other processes of an error that leaves this block; does nothing if alone.

  What is no `UserError` may come of a process that is lost, so it waits to hear of one first; if
  there is one, this process ends here.
  """
  if not _watches:
    yield
    return
  watch = _watches[0]
  try:
    yield
  except errors.UserError as error:
    watch.leave(2, str(error))
    raise
  except KeyboardInterrupt:
    watch.leave(130, "interrupted")
    raise
  except Exception as error:
    time.sleep(TOLD_SECONDS)
    line = (str(error).strip().splitlines() or [""])[0][:300]
    watch.leave(1, f"{type(error).__name__}: {line}")
    raise


def _lost(index: int, count: int, how: str = f"no sign of life for {LOST_SECONDS:.0f} s") -> str:
  return f"Process {index} of {count} is lost ({how}). {_AGAIN}"


def _by_index(pairs: list[tuple[str, str]]) -> dict[int, str]:
  return {int(key.rpartition("/")[2]): value for key, value in pairs}
