"""Where a study is stored: opened, and asked again while it is away.

memory        in this process alone, gone with it
journal:FILE  a file that is only appended to, for file systems on which SQLite breaks
FILE          SQLite, for the processes of one machine
URL           any database that SQLAlchemy knows, for many machines: postgresql://..., mysql://...
"""

import logging as std_logging
import os
import pathlib
import random
import socket
import threading
import time
import warnings
from typing import Any

import optuna
from absl import logging
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import exc as sqlalchemy_errors

from effnets import errors

HEARTBEAT = 20
"""Seconds between two signs of life of a worker."""
GRACE = 120
"""Seconds without one after which its trial is taken from it."""

_AWAY = (
  OSError,
  optuna.exceptions.StorageInternalError,
  sqlalchemy_errors.DBAPIError,
  sqlalchemy_errors.TimeoutError,
)


class Storage:
  """An Optuna storage whose methods wait for a database that is away.

  where: see the module. patience: seconds that a call waits for it before it gives up.
  """

  def __init__(self, where: str, *, patience: float = 600.0):
    self.where, self.patience = where, patience
    self._told = threading.Event()
    # What is wrong with a file stays wrong; a server may be on its way.
    remote = "://" in where and not where.startswith("sqlite")
    self.raw = self.call(_open, where, limit=patience if remote else 0.0)
    # Every worker shows that it lives where the database can say so.
    self.heartbeats = hasattr(self.raw, "record_heartbeat")

  def __getattr__(self, name: str) -> Any:
    method = getattr(self.raw, name)
    return lambda *args, **kwargs: self.call(method, *args, **kwargs)

  def call(self, function: Any, *args: Any, limit: float | None = None, **kwargs: Any) -> Any:
    """Returns what `function` returns, tried again while the database is away.

    limit: seconds, instead of `patience`.

    Raises: UserError when it has been away longer than that.
    """
    limit = self.patience if limit is None else limit
    deadline, pause = time.monotonic() + limit, 0.1
    while True:
      try:
        result = function(*args, **kwargs)
      except _AWAY as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if time.monotonic() >= deadline:
          raise errors.UserError(
            f"The study's database {shown(self.where)} has not answered for "
            f"{limit:g} s ({reason}). Finished trials are safe in it; the same command "
            "goes on when it is back."
          ) from error
        if not self._told.is_set():
          logging.warning(
            "The study's database does not answer (%s); waiting up to %g s.", reason, limit
          )
          self._told.set()
        # Workers that lost it at the same moment should not come back at the same moment.
        time.sleep(min(pause * random.uniform(0.5, 1.0), max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, 10.0)
      else:
        if self._told.is_set():
          logging.warning("The study's database answers again.")
          self._told.clear()
        return result


def shown(where: str) -> str:
  """Returns the place without the password in it."""
  scheme, found, rest = where.partition("://")
  return f"{scheme}://{rest.rpartition('@')[2]}" if found else where


def _open(where: str) -> optuna.storages.BaseStorage:
  optuna.logging.set_verbosity(std_logging.WARNING)
  if where == "memory":
    return optuna.storages.InMemoryStorage()
  if where.startswith("journal:"):
    path = pathlib.Path(where.removeprefix("journal:"))
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.storages.JournalStorage(backend)
  url, options = where, {}
  if "://" not in where:
    path = pathlib.Path(where).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{path}"
  if url.startswith("sqlite"):
    options = {"connect_args": {"timeout": 60}}
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
      found = optuna.storages.RDBStorage(
        url, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=GRACE
      )
    except (sqlalchemy_errors.ArgumentError, ImportError) as error:
      raise errors.UserError(
        f"The study's place {shown(where)!r} is no database that can be opened ({error}); give a "
        "file, journal:FILE or a URL such as postgresql://USER@HOST/NAME."
      ) from error
  if url.startswith("sqlite"):
    found.engine.dispose()
    sqlalchemy_event.listen(found.engine, "connect", _prepare_sqlite)
    sqlalchemy_event.listen(found.engine, "begin", _begin_sqlite)
  return optuna.storages.get_storage(found)


def _prepare_sqlite(connection: Any, _: Any) -> None:
  """Sets a new connection to SQLite up."""
  # Python's module would begin a transaction at the first write, after what it depends on was read.
  connection.isolation_level = None
  cursor = connection.cursor()
  # No wait for the disk at every commit: what a killed process has written is safe, and a power
  # failure takes the last trials, never the file.
  cursor.execute("PRAGMA journal_mode=WAL")
  cursor.execute("PRAGMA synchronous=NORMAL")
  cursor.close()


def _begin_sqlite(connection: Any) -> None:
  """Takes the lock before anything is read: SQLite ignores Optuna's SELECT FOR UPDATE.

  Without it two workers that look at a waiting trial at the same moment both get it.
  """
  connection.exec_driver_sql("BEGIN IMMEDIATE")


class Heartbeat:
  """A context in which a thread shows every `HEARTBEAT` seconds that a trial's worker lives."""

  def __init__(self, storage: Storage, trial_id: int):
    self._storage, self._trial = storage, trial_id
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def __enter__(self) -> "Heartbeat":
    if self._storage.heartbeats:
      self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
      self._thread.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._stop.set()
    if self._thread is not None:
      self._thread.join(timeout=HEARTBEAT)

  def _beat(self) -> None:
    while not self._stop.wait(HEARTBEAT):
      try:
        # Not patient: the next beat is the next try.
        self._storage.raw.record_heartbeat(self._trial)
      except Exception as error:  # A missed beat must not end the child's training.
        logging.info("A heartbeat was missed: %s.", error)


def _machine() -> str:
  """Returns what tells this machine, or container, from all others."""
  parts = [socket.gethostname()]
  for read in (
    lambda: pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()[:8],
    lambda: os.readlink("/proc/self/ns/pid").strip("pid:[]"),
  ):
    try:
      parts.append(read())
    except OSError:
      continue
  return "-".join(parts)


def worker_name() -> str:
  """Returns the name of this thread as a worker: machine, process and thread."""
  return f"{_machine()}:{os.getpid()}:{threading.get_native_id()}"


def gone(worker: str) -> bool:
  """Returns whether it is known that the worker's process has ended: only of this machine's."""
  machine, _, rest = worker.partition(":")
  pid = rest.partition(":")[0]
  if machine != _machine() or not pid.isdigit() or int(pid) == os.getpid():
    return False
  try:
    os.kill(int(pid), 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    return False
  # A process that has ended and that its parent has not yet asked about is gone too.
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
  except OSError:
    return False
