"""The command line: `python -m effnets.main --config=FILE[:ARG] --workdir=DIR [--mode=MODE]`.

Exit status: 0 on success (also when a signal stopped a run that can be resumed), 2 with one
message for a mistake in the call, the config, the data or the workdir.
"""

import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from effnets import configuration, errors

MODES = ("train", "evaluate")

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:ARG], such as configs/b.py:b7.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: results and checkpoints.")
_MODE = flags.DEFINE_string("mode", "train", f"One of {', '.join(MODES)}.")


def main(argv: Sequence[str]) -> int | None:
  """Runs what the flags ask for; see the module's docstring."""
  if len(argv) > 1:
    raise errors.UserError(f"{argv[1]!r} is no flag; settings are given as --config.KEY=VALUE.")
  # JAX is imported after the flags were found to be right, so that a typing error costs no time.
  from effnets import commands, parallel

  if _MODE.value not in MODES:
    raise errors.unknown("--mode", _MODE.value, "a mode", MODES)
  config = _CONFIG.value
  if _WORKDIR.value is None:
    raise errors.UserError("--workdir=DIR is missing: the folder for checkpoints and results.")
  parallel.initialize(
    coordinator=config.processes.coordinator,
    num_processes=config.processes.count,
    process_id=config.processes.index,
  )
  if _MODE.value == "evaluate":
    commands.evaluate(config, _WORKDIR.value)
  else:
    commands.train(config, _WORKDIR.value)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Returns what absl leaves of `argv`; every mistake in it becomes a UserError."""
  argv = [_found(a) if a.startswith("--config=") else a for a in argv]
  if "--help" not in argv and not any(a.startswith("--config=") for a in argv):
    raise errors.UserError("--config=FILE[:ARG] is missing, such as configs/noisy_student.py.")
  try:
    return flags.FLAGS(argv)
  except AttributeError as error:  # an override of a key that is not there
    for text in argv:
      match = re.match(r"--(?:no)?config\.([\w.]+)(?:=(.*))?$", text)
      if match:
        _check_key(match[1], match[2], _CONFIG.value)
    raise errors.UserError(f"the flags cannot be read: {error}") from error
  except flags.Error as error:
    raise errors.UserError(str(error)) from error
  except OSError as error:
    raise errors.UserError(str(error)) from error


def _check_key(key: str, value: str | None, config: Any) -> None:
  known = configuration.flatten(config)
  if key not in known and not any(k.startswith(f"{key}.") for k in known):
    raise errors.unknown(f"config.{key}", value, "a setting", known, where="see the config file")


def _found(flag: str) -> str:
  """Returns the flag with the config's real path: as given, else as shipped with the package."""
  path, colon, arg = flag.removeprefix("--config=").partition(":")
  if not pathlib.Path(path).is_file():
    shipped = configuration.shipped()
    if pathlib.Path(path).name not in shipped:
      raise errors.unknown("--config", path, "a file", [f"configs/{name}" for name in shipped])
    path = str(shipped[pathlib.Path(path).name])
  return f"--config={path}{colon}{arg}"


def run() -> None:
  """Runs `main` with the process's own arguments; a user's mistake is one line and status 2."""
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  try:
    app.run(main, flags_parser=_parse_flags)
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    sys.exit(2)


if __name__ == "__main__":
  run()
