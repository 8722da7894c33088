"""The tables of learned policies against check sums of the published ones."""

import zlib

import pytest

from effnets.augment import boxes, learned, operations

_SPELLING = {
  "autocontrast": "AutoContrast",
  "shear_x": "ShearX",
  "shear_y": "ShearY",
  "solarize_add": "SolarizeAdd",
  "translate_x": "TranslateX",
  "translate_y": "TranslateY",
}
_MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def _published(name, detection):
  """Returns an operation's name as the official code spells it."""
  if name == "cutout_at_box":
    return "BBox_Cutout"
  plain = name.removesuffix("_in_boxes")
  plain = _SPELLING.get(plain, plain.capitalize())
  if name.endswith("_in_boxes"):
    return f"{plain}_Only_BBoxes"
  return f"{plain}_BBox" if detection and plain in _MOVING else plain


def _lines(policy, detection=False):
  """Returns sub-policies as `Color(0.4,9)+Equalize(0.6,3)`."""
  return [
    "+".join(f"{_published(name, detection)}({p:g},{m:g})" for name, p, m in sub) for sub in policy
  ]


def _crc(lines):
  return zlib.crc32("\n".join(lines).encode())


# Number of sub-policies and CRC-32 of the official code's tables in that notation.
@pytest.mark.parametrize(
  ("policy", "detection", "count", "crc"),
  [
    (learned.OFFICIAL["v0"], False, 25, 0x8943D892),
    (learned.PIL["cifar10"], False, 95, 0xAC7216D),
    (learned.PIL["svhn"], False, 25, 0x2BAAD2F7),
    (learned.DETECTION["v0"], True, 5, 0xC09BB3FD),
    (learned.DETECTION["v1"], True, 20, 0xE9B32CD0),
    (learned.DETECTION["v2"], True, 15, 0x52B15BF8),
    (learned.DETECTION["v3"], True, 15, 0xBDF3C1E9),
  ],
)
def test_tables(policy, detection, count, crc):
  lines = _lines(policy, detection)
  assert len(lines) == count
  assert _crc(lines) == crc


def test_original():
  # timm has the same 25 lines with the repeated ones in another order.
  lines = sorted(_lines(learned.PIL["original"]))
  assert (len(lines), len(set(lines))) == (25, 20)
  assert _crc(lines) == 0xA3E40DF0


def test_cifar10_25():
  # torchvision has it with None for the magnitude of operations without an argument.
  lines = _lines(learned.PIL["cifar10_25"])
  for name in ("AutoContrast", "Equalize", "Invert"):
    lines = ["+".join(_bare(part, name) for part in line.split("+")) for line in lines]
  assert len(lines) == 25
  assert _crc(lines) == 0xF8310580


def _bare(operation, name):
  return operation.partition(",")[0] + ")" if operation.startswith(f"{name}(") else operation


def test_every_operation_is_there():
  for known, policies in (
    (operations.OPERATIONS, {**learned.OFFICIAL, **learned.PIL}),
    (boxes.OPERATIONS, learned.DETECTION),
  ):
    for policy in policies.values():
      for sub in policy:
        for name, probability, magnitude in sub:
          assert name in known and 0 <= probability <= 1 and 0 <= magnitude <= 10
