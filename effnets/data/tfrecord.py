"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow.

A record is its length (8 bytes, little endian), a checksum of the length, the data, a checksum of
the data; checksums are CRC-32C, turned and offset. An Example is a protocol buffer: a map from
names to lists of bytes, floats or whole numbers. Compressed files, whose records cannot be read in
any order, are none.
"""

import functools
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from effnets.data import sources

Feature = list[bytes] | np.ndarray


class _Damaged(ValueError):
  """What is read is no record or no Example; the text says why."""


def index(path: str | os.PathLike) -> list[tuple[int, int]]:
  """Returns (offset, length) of the data of every record; of the data itself nothing is read.

  Raises: sources.Unreadable, with the path and the place, if the file is no whole TFRecord file.
  """
  try:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
      return list(_places(file, size))
  except (OSError, _Damaged) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise sources.Unreadable(f"{path} ({reason})") from error


def _places(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
  at = 0
  while at < size:
    file.seek(at)
    head = file.read(12)
    if len(head) < 12:
      raise _Damaged(f"cut short at byte {at}")
    length, check = struct.unpack("<QI", head)
    if masked_crc(head[:8]) != check:
      raise _Damaged(f"no TFRecord at byte {at}: the checksum of the length is wrong")
    if at + 16 + length > size:
      raise _Damaged(f"cut short at byte {at}: a record of {length} bytes begins there")
    yield at + 12, length
    at += 16 + length


def read(path: str | os.PathLike, offset: int, length: int) -> bytes:
  """Returns the data of a record. Raises: sources.Unreadable if its checksum is wrong."""
  try:
    with open(path, "rb") as file:
      file.seek(offset)
      data = file.read(length + 4)
  except OSError as error:
    raise sources.Unreadable(f"{path} ({error.strerror})") from error
  if len(data) < length + 4 or masked_crc(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
    raise sources.Unreadable(f"{path} (the record at byte {offset - 12} is damaged)")
  return data[:-4]


def example(data: bytes, name: str) -> dict[str, Feature]:
  """Returns the features of a tf.train.Example: bytes as a list, numbers as an array.

  Floats are float32, whole numbers int64.
  Raises: sources.Unreadable, with `name`, if it is none.
  """
  found: dict[str, Feature] = {}
  try:
    for number, features in _fields(data):
      if number == 1:
        for key, entry in _fields(features):
          if key == 1:
            parts = dict(_fields(entry))
            found[bytes(parts[1]).decode("utf-8")] = _feature(parts.get(2, b""))
  except (_Damaged, KeyError, TypeError, IndexError, ValueError) as error:
    raise sources.Unreadable(f"{name} (no tf.train.Example)") from error
  return found


def _feature(data: memoryview | bytes) -> Feature:
  for number, values in _fields(data):
    if number == 1:
      return [bytes(value) for _, value in _fields(values)]
    if number == 2:
      return np.array([x for _, value in _fields(values) for x in _floats(value)], np.float32)
    if number == 3:
      return np.array([x for _, value in _fields(values) for x in _wholes(value)], np.int64)
  return []


def _floats(value: memoryview | bytes | int) -> np.ndarray:
  # Packed into one field, or a field for each.
  return np.frombuffer(value, "<f4")


def _wholes(value: memoryview | bytes | int) -> list[int]:
  if isinstance(value, int):
    return [_signed(value)]
  found, at = [], 0
  while at < len(value):
    number, at = _varint(value, at)
    found.append(_signed(number))
  return found


def _signed(value: int) -> int:
  return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: memoryview | bytes | int) -> Iterator[tuple[int, memoryview | int]]:
  """Yields (number, value) of a message's fields: whole numbers, or the bytes of the others."""
  if isinstance(data, int):
    raise _Damaged("a number where a message should be")
  data, at = memoryview(data), 0
  while at < len(data):
    tag, at = _varint(data, at)
    kind = tag & 7
    if kind == 0:
      value, at = _varint(data, at)
    else:
      if kind == 2:
        size, at = _varint(data, at)
      elif kind in (1, 5):
        size = 8 if kind == 1 else 4
      else:
        raise _Damaged(f"a field of the unknown kind {kind}")
      if at + size > len(data):
        raise _Damaged("a field longer than its message")
      value, at = data[at : at + size], at + size
    yield tag >> 3, value


def _varint(data: memoryview | bytes, at: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at, shift = at + 1, shift + 7
    if byte < 0x80:
      return value, at
    if shift > 63:
      raise _Damaged("a number of more than 64 bits")


# ---- CRC-32C -------------------------------------------------------------------------------------

_LANES = 1024


def masked_crc(data: bytes) -> int:
  """Returns the checksum as TFRecord files have it: CRC-32C, turned by 15 bits, offset."""
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
  """Returns the CRC-32C (Castagnoli) of data.

  >>> hex(crc32c(b"123456789"))
  '0xe3069283'
  """
  table, state = _table(), 0xFFFFFFFF
  values = np.frombuffer(data, np.uint8)
  length = len(values) // _LANES
  if length >= 16:
    # Equal stretches side by side, each from state 0 but the first. Two in a row make one: the
    # state after the second, added to that after the first, moved on by as many zeros.
    lanes = values[: length * _LANES].reshape(_LANES, length).T
    states = np.zeros(_LANES, np.uint32)
    states[0] = state
    for column in lanes:
      states = table[(states ^ column) & 0xFF] ^ (states >> 8)
    size = length
    while len(states) > 1:
      first, states = states[0::2], states[1::2].copy()
      for bit, image in enumerate(_moved(size)):
        states ^= (first >> bit & 1) * np.uint32(image)
      size *= 2
    state, values = int(states[0]), values[length * _LANES :]
  entries = _plain_table()
  for byte in values.tolist():
    state = entries[(state ^ byte) & 0xFF] ^ (state >> 8)
  return state ^ 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
  return table


@functools.cache
def _plain_table() -> list[int]:
  return _table().tolist()


@functools.lru_cache(maxsize=64)
def _moved(zeros: int) -> tuple[int, ...]:
  """Returns what each bit of a state becomes after so many zero bytes; states add up bit by bit."""
  table = _table()
  # One zero byte, then squares of it: a matrix over bits, as the images of the 32 bits.
  power = tuple(int(table[(1 << b) & 0xFF]) ^ ((1 << b) >> 8) for b in range(32))
  result = tuple(1 << b for b in range(32))
  while zeros:
    if zeros & 1:
      result = tuple(_applied(power, image) for image in result)
    power = tuple(_applied(power, image) for image in power)
    zeros >>= 1
  return result


def _applied(matrix: tuple[int, ...], state: int) -> int:
  result, bit = 0, 0
  while state:
    if state & 1:
      result ^= matrix[bit]
    state, bit = state >> 1, bit + 1
  return result
