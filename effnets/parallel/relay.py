"""A door between a process and the coordinator of its run, in process 0, that is closed softly.

JAX's own client ends its process with a native abort as soon as the connection to the coordinator
breaks. Behind a relay it does not see that: the relay does, and tells whoever made it.
"""

import socket
import threading
import time
from collections.abc import Callable

_BYTES = 2**16


class Relay:
  """Forwards connections to `port` of this host, and only of this host, to the coordinator.

  port: where to connect instead of there. heard: when the coordinator last sent something, by
  `time.monotonic`.
  """

  def __init__(self, address: str, broken: Callable[[], bool]):
    """Starts to listen.

    address: `host:port` of the coordinator. broken: called when a connection to it breaks; returns
    whether that is to be kept from this side.
    """
    host, _, port = address.rpartition(":")
    self._there = (host.strip("[]"), int(port))
    self._broken = broken
    self._listener = socket.create_server(("127.0.0.1", 0))
    self.port = self._listener.getsockname()[1]
    self.heard = time.monotonic()
    self._thread(self._accept)

  def _thread(self, work: Callable, *args: object) -> None:
    threading.Thread(target=work, args=args, name="effnets-relay", daemon=True).start()

  def _accept(self) -> None:
    while True:
      here, _ = self._listener.accept()
      try:
        there = socket.create_connection(self._there, timeout=10)
        there.settimeout(None)
      except OSError:  # not there yet: the client tries again by itself
        here.close()
        continue
      for end in (here, there):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
      self._thread(self._forward, here, there, False)
      self._thread(self._forward, there, here, True)

  def _forward(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
    while True:
      try:
        content = source.recv(_BYTES)
      except OSError:
        content = b""
      if answers and content:
        self.heard = time.monotonic()
      if answers and not content and self._broken():
        return  # the other end stays open, and whoever waits at it waits on
      try:
        if not content:
          target.shutdown(socket.SHUT_RDWR)
          return
        target.sendall(content)
      except OSError:
        if not answers and self._broken():
          return
        source.close()
        return
