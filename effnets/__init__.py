"""effnets: efficient vision papers, reproduced by one sharded JAX/Flax loop."""

import importlib
import pkgutil
from types import ModuleType

__version__ = "0.1.0"

_PARTS = frozenset(part.name for part in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> ModuleType:
  """Returns a part of the package on first use, so that importing the package stays quick.

  >>> import effnets
  >>> effnets.errors.nearest("b", ["a", "b"])
  ['b']
  """
  if name in _PARTS:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
