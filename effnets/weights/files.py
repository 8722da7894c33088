"""State dicts from files and from the Hugging Face hub, variables from TensorFlow checkpoints.

Nothing here runs code that a file brings along: NumPy reads without pickle, PyTorch's own files are
opened only with `weights_only=True`, and a TensorFlow checkpoint is a table of plain arrays.
"""

import contextlib
import importlib
import os
import pathlib
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
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


class Checkpoint(Mapping[str, np.ndarray]):
  """The variables of a TensorFlow checkpoint by name; each is read when it is asked for.

  prefix: path of the checkpoint without `.index` or `.data-...`.
  """

  def __init__(self, prefix: pathlib.Path):
    """Opens a checkpoint, through TensorFlow.

    Raises: UserError if a file of it is missing or damaged, or TensorFlow is not installed.
    """
    self._prefix = prefix
    self._check_files()
    try:
      with _silence():
        tensorflow = importlib.import_module("tensorflow")
    except ImportError as error:
      raise errors.UserError(
        f"{prefix} is a TensorFlow checkpoint, and TensorFlow, which reads it, is not installed: "
        "`pip install 'effnets[tf]'`, or use timm's copy of Google's weights, 'timm/tf_...' on the "
        "Hugging Face hub."
      ) from error
    try:
      self._reader = tensorflow.train.load_checkpoint(os.fspath(prefix))
      self._names = dict.fromkeys(sorted(self._reader.get_variable_to_shape_map()))
    except Exception as error:  # TensorFlow's errors and ValueError, as the damage will have it
      raise self._damaged(error) from error

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self:
      raise KeyError(name)
    try:
      return self._reader.get_tensor(name)
    except Exception as error:
      raise self._damaged(error) from error

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def _check_files(self) -> None:
    folder, name = self._prefix.parent, self._prefix.name
    parts = [re.fullmatch(re.escape(name) + _DATA, path.name) for path in folder.iterdir()]
    found = {int(part[1]): int(part[2]) for part in parts if part}
    missing = set(range(max(found.values(), default=1))).difference(found)
    if missing:
      of = max(found.values(), default=1)
      raise errors.UserError(
        f"{self._prefix} is a TensorFlow checkpoint without its values: "
        f"{name}.data-{min(missing):05d}-of-{of:05d} is missing beside {name}.index."
      )

  def _damaged(self, error: Exception) -> errors.UserError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return errors.UserError(
      f"{self._prefix} is no whole TensorFlow checkpoint: {reason[0]}. It may be cut short; fetch "
      "it again."
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """Keeps what C++ writes to the error output away: TensorFlow greets with lines about the CPU."""
  sys.stderr.flush()
  kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(nowhere)


_DATA = r"\.data-(\d{5})-of-(\d{5})"


def _prefix(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the prefix of the TensorFlow checkpoint that `path` means, or None if it means none.

  Raises: UserError if a folder has several, and does not say which is the last.
  """
  if not path.is_dir():
    name = re.sub(rf"(\.index|\.meta|{_DATA})$", "", path.name)
    prefix = path.with_name(name)
    known = path.with_name(f"{name}.index").is_file()
    if not known and re.search(f"{_DATA}$", path.name) and path.is_file():
      raise errors.UserError(
        f"source={str(path)!r} is one part of a TensorFlow checkpoint, whose {name}.index is not "
        "beside it."
      )
    return prefix if known and (prefix != path or not path.exists()) else None
  prefixes = sorted(p.with_suffix("") for p in path.glob("*.index") if p.is_file())
  record = path / "checkpoint"
  if record.is_file():
    told = re.search(r'^model_checkpoint_path: "(.*)"', record.read_text("utf-8", "replace"), re.M)
    # The path may be the one on the machine where it was written; the files lie here.
    last = path / pathlib.PurePath(told[1]).name if told else None
    if last in prefixes:
      return last
  if len(prefixes) > 1:
    raise errors.UserError(
      f"source={str(path)!r}: this folder has {len(prefixes)} TensorFlow checkpoints; give the "
      f"path of one, such as {str(prefixes[-1])!r}."
    )
  if record.is_file() and not prefixes:
    raise errors.UserError(
      f"source={str(path)!r}: the file `checkpoint` in it tells of a TensorFlow checkpoint, of "
      "which no .index file is there."
    )
  return prefixes[0] if prefixes else None


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
    source: path of a `.safetensors`, `.npz`, `.pth`, `.pt` or `.bin` file, of a TensorFlow
      checkpoint (with or without `.index`), of a folder with a checkpoint or one of `HUB_FILES`, or
      a Hugging Face id (`owner/name`). What exists as a path is taken as a path.
  Raises: UserError if there is none, it cannot be read, or PyTorch or TensorFlow is needed and not
    installed.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_dir():
    for name in HUB_FILES:
      if (path / name).is_file():
        return _file(path / name)
  prefix = _prefix(path)
  if prefix is not None:
    return Checkpoint(prefix)
  if path.is_file():
    return _file(path)
  if path.is_dir():
    inside = sorted({str(p.parent) for p in path.glob("*/*.index")})
    more = f"; there is a TensorFlow checkpoint in {' and '.join(inside)}" if inside else ""
    raise errors.UserError(
      f"source={str(path)!r}: this folder has none of {', '.join(HUB_FILES)} and no TensorFlow "
      f"checkpoint{more}."
    )
  text = os.fspath(source)
  if path.suffix.lower() not in _READERS and _HUB_ID.fullmatch(text):
    return _file(_hub(text))
  raise errors.UserError(
    f"source={text!r} does not exist; it should be a file ({', '.join(_READERS)}), a TensorFlow "
    "checkpoint or a Hugging Face id such as 'timm/tf_efficientnet_b0.ns_jft_in1k'."
  )
