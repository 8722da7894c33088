"""The house of DESIGN.md: a room imports from rooms below it only."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "effnets"

# Rooms of one floor know nothing of each other. The foundations are single modules without a room.
FLOORS = (
  ("errors", "defaults"),
  ("streams", "configuration"),
  ("workdirs",),
  ("ops", "parallel"),
  ("augment", "models"),
  ("data",),
  ("evaluation",),
  ("tasks", "weights"),
  ("recipes",),
  ("training",),
  ("pipelines",),
  ("search",),
  ("commands",),
  ("main", "zoo", "card", "prepare"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# These travel to other code bases: arrays in, arrays out.
LIGHT = {"jax", "flax", "optax", "numpy", "jaxtyping", "effnets"}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room_of(path):
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree):
  """Yields the dotted names that a module imports, wherever in it."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
  room = room_of(path)
  for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
    if name.startswith("effnets."):
      other = name.split(".")[1]
      assert other == room or LEVEL[other] < LEVEL[room], f"{room} imports {name}"


@pytest.mark.parametrize("room", ["ops", "augment", "models"])
def test_rooms_that_travel_need_little(room):
  for path in (PACKAGE / room).rglob("*.py"):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    for name in imports(ast.Module(at_import, [])):
      top = name.split(".")[0]
      assert top in LIGHT or top in sys.stdlib_module_names, f"{path} imports {name}"
