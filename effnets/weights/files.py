"""State dicts from files and from the Hugging Face hub.

Nothing here runs code that a file brings along: NumPy reads without pickle, and PyTorch's own files
are opened only with `weights_only=True`.
"""

import importlib
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import huggingface_hub
import numpy as np
import safetensors
import safetensors.numpy
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import logging as hub_logging

from effnets import errors

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_ID = re.compile(r"(hf[-_]hub:)?[\w][\w.-]*/[\w][\w.-]*")
# A training checkpoint holds several state dicts; averaged weights are the ones that were measured.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def _safetensors(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError, KeyError) as error:
    raise errors.UserError(
      f"{path} ({path.stat().st_size} bytes) is no whole safetensors file: {error}. "
      "It may be cut short; fetch it again."
    ) from error


def _npz(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, AttributeError) as error:
    raise errors.UserError(
      f"{path} ({path.stat().st_size} bytes) is no whole NPZ file of plain arrays: {error}. "
      "It may be cut short; fetch it again."
    ) from error


def _torch(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    torch = importlib.import_module("torch")
  except ImportError as error:
    raise errors.UserError(
      f"{path} is a PyTorch file, and PyTorch, which alone opens it safely, is not installed: "
      "`pip install torch`, or use the same weights as .safetensors."
    ) from error
  try:
    found = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:  # pickle, zip and runtime errors, depending on where the file breaks
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise errors.UserError(
      f"{path} cannot be opened as a PyTorch file of weights alone: {reason[0]}"
    ) from error
  for key in _WRAPPERS:
    if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
      return found[key]
  return found


_READERS: dict[str, Callable[[pathlib.Path], Mapping[str, Any]]] = {
  ".safetensors": _safetensors,
  ".npz": _npz,
  ".pth": _torch,
  ".pt": _torch,
  ".bin": _torch,
}


def _file(path: pathlib.Path) -> Mapping[str, Any]:
  reader = _READERS.get(path.suffix.lower())
  if reader is None:
    raise errors.unknown(f"{path}: suffix", path.suffix, "a format of weights", _READERS)
  return reader(path)


def _hub(repository: str) -> pathlib.Path:
  repository = re.sub("^hf[-_]hub:", "", repository)
  # Its notes of every retry would bury the one message that counts.
  hub_logging.set_verbosity_error()
  for name in HUB_FILES:
    try:
      return pathlib.Path(huggingface_hub.hf_hub_download(repository, name))
    except hub_errors.LocalEntryNotFoundError as error:  # a subclass of the next one: goes first
      raise _unreachable(repository, error) from error
    except hub_errors.EntryNotFoundError:
      continue
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
      raise errors.UserError(
        f"source={repository!r} is neither a file here nor a public Hugging Face repository. "
        "timm's are called 'timm/' and the weights' full name, such as "
        "'timm/tf_efficientnet_b0.ns_jft_in1k'."
      ) from error
    except (hub_errors.OfflineModeIsEnabled, hub_errors.HfHubHTTPError, OSError) as error:
      raise _unreachable(repository, error) from error
    except Exception as error:
      # The hub's client lets through the errors of whichever HTTP library it is built on.
      if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests"):
        raise _unreachable(repository, error) from error
      raise
  raise errors.UserError(
    f"source={repository!r}: this Hugging Face repository has none of {', '.join(HUB_FILES)}."
  )


def _unreachable(repository: str, error: Exception) -> errors.UserError:
  reason = str(error).strip().splitlines() or [type(error).__name__]
  return errors.UserError(
    f"source={repository!r}: no such file here, and the Hugging Face hub cannot be reached "
    f"({reason[0]}). Fetch `model.safetensors` from huggingface.co/{repository} elsewhere and give "
    "its path, or go online."
  )


def read(source: str | os.PathLike[str]) -> Mapping[str, Any]:
  """Returns the state dict that `source` holds.

  Args:
    source: path of a `.safetensors`, `.npz`, `.pth`, `.pt` or `.bin` file, of a folder with one of
      `HUB_FILES`, or a Hugging Face id (`owner/name`). What exists as a path is taken as a path.
  Raises: UserError if there is none, it cannot be read, or PyTorch is needed and not installed.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_file():
    return _file(path)
  if path.is_dir():
    for name in HUB_FILES:
      if (path / name).is_file():
        return _file(path / name)
    raise errors.UserError(f"source={str(path)!r}: this folder has none of {', '.join(HUB_FILES)}.")
  if path.with_name(path.name + ".index").is_file():
    raise errors.UserError(
      f"source={str(path)!r} is a TensorFlow checkpoint; formats that are read: "
      f"{', '.join(_READERS)}. timm has Google's weights as 'timm/tf_...' on the Hugging Face hub."
    )
  text = os.fspath(source)
  if path.suffix.lower() not in _READERS and _HUB_ID.fullmatch(text):
    return _file(_hub(text))
  raise errors.UserError(
    f"source={text!r} does not exist; it should be a file ({', '.join(_READERS)}) or a Hugging "
    "Face id such as 'timm/tf_efficientnet_b0.ns_jft_in1k'."
  )
