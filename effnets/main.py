"""The command line of effnets: trains, evaluates or uses what a config describes.

  python -m effnets.main --config=FILE[:ARG] [--workdir=DIR] [--mode=MODE] [--config.KEY=VALUE ...]

  --config=FILE[:ARG]   a config file, such as configs/efficientnet.py:b7; of those that come with
                        effnets the name alone will do. What ARG may be is in the file's docstring.
  --config.KEY=VALUE    overrides a setting of it, such as --config.optimizer.learning_rate=0.1
  --config.weights=W    starts from weights, or evaluates and uses them: NAME:SOURCE, as in
                        tf_efficientnet_b0.ns_jft_in1k:model.safetensors, or run:DIR. They bring
                        their network, image size and pre-processing
  --workdir=DIR         folder of the run: config, results, checkpoints, metrics, plots. The same
                        command again continues a run that was stopped. Without it: runs/ and
                        the names of FILE and ARG, such as runs/efficientnet_b7. Of a run that is
                        there, the modes below need no --config
  --mode=train          trains (default)
  --mode=evaluate       evaluates the run in DIR, its last checkpoint, or its best one with
                        --config.evaluation.checkpoint=best; if there is no run, --config.weights
  --mode=robustness     measures it on corrupted, perturbed and attacked pictures; what is measured
                        is in --config.robustness
  --mode=predict        names what is in the picture, or the folder of pictures, --config.input
  --mode=few_shot       judges the features of that model on --config.data: a linear classifier
                        from 1, 5, 10 examples a class (--config.few_shot.shots)
  --mode=export         writes the same model as --config.export.format: stablehlo, onnx, tflite
                        or savedmodel, to DIR/export, and checks it in that format's runtime
  --mode=plan           compiles the training's step for a slice of TPUs that need not be here,
                        --config.plan.topology, such as v5e-256, cpu:8 or gpu, and tells whether it
                        fits, how fast it can be and how long it would take
  --mode=report         tells where the time of the run in DIR went, and draws it
  --mode=show           draws what the augmentation of the config does to pictures of its data, and
                        tells its operations; trains nothing
  --mode=search         searches an architecture, as a config such as configs/search_mnasnet.py says
  --mode=worker         trains networks for the search of the same config and workdir, until it ends
  --verbosity=0         shows more of the log; 1 shows all. Results go to the standard output,
                        warnings and errors to the standard error.

Exit status: 0 on success, also when a signal stopped a run that can be continued; 2 with one
message for a mistake in the call, the config, the data or the workdir; 75 if another process of the
run is lost, and the same command on all of them continues; 130 after Ctrl-C.
"""

import json
import logging as std_logging
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from effnets import configuration, errors, workdirs

MODES = (
  "train",
  "evaluate",
  "robustness",
  "predict",
  "few_shot",
  "export",
  "plan",
  "report",
  "show",
  "search",
  "worker",
)

_CONFIG = flags.DEFINE_string("config", None, "FILE[:ARG], such as configs/efficientnet.py:b7.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: results and checkpoints.")
_MODE = flags.DEFINE_string("mode", "train", f"One of {', '.join(MODES)}.")

# What may differ between the processes of one run.
_EACH_ITS_OWN = ("processes.", "data.threads", "data.workers")

_OVERRIDE = re.compile(r"--?config\.([^=]*)(?:=(.*))?", re.DOTALL)


def parse(argv: Sequence[str]) -> tuple[Any, str, str]:
  """Returns config, workdir and mode that the arguments ask for.

  Args:
    argv: the program's name and its arguments.

  Raises: UserError for every mistake that can be known without JAX.
  """
  overrides, others = [], []
  for text in argv:
    match = _OVERRIDE.fullmatch(text)
    if match is None:
      others.append(text)
    elif match[2] is None:
      raise errors.UserError(f"{text} has no value; write {text}=VALUE.")
    else:
      overrides.append((match[1], match[2]))
  try:
    rest = flags.FLAGS(others)
  except flags.Error as error:
    text = str(error).replace(" ?", "?")
    raise errors.UserError(f"{text} See --help.") from error
  if len(rest) > 1:
    raise errors.UserError(
      f"{rest[1]!r} is no flag; settings are given as --config.KEY=VALUE, the rest as --FLAG=VALUE."
    )
  if _MODE.value not in MODES:
    raise errors.unknown("--mode", _MODE.value, "a mode", MODES)
  # The last one counts, as of all settings; it comes first, since it brings others with it.
  weights = next((text for key, text in reversed(overrides) if key == "weights"), "")
  of_workdir = _MODE.value != "train" and not _CONFIG.value and _WORKDIR.value and not weights
  of_weights = _MODE.value != "train" and not _CONFIG.value and weights
  if not (_CONFIG.value or of_workdir or of_weights):
    shipped = " or ".join(f"configs/{name}" for name in configuration.shipped())
    raise errors.UserError(f"--config=FILE[:ARG] is missing, such as {shipped}.")
  workdir = _WORKDIR.value
  if workdir is None:
    workdir = _default_workdir(_CONFIG.value or weights.partition(":")[0])
  if not workdir:
    raise errors.UserError("--workdir= is empty; give the folder for checkpoints and results.")
  if of_workdir:
    config = workdirs.saved(workdir)
  elif _CONFIG.value:
    config = configuration.load(_CONFIG.value)
  else:
    config = configuration.base()
    config.train.steps = 1  # of a training that is not asked for
  if weights:
    from effnets import weights as weights_lib

    weights_lib.configure(config, weights)
  for key, text in overrides:
    if key != "weights":
      configuration.override(config, key, text)
    if key == "arch":
      from effnets.search import network

      network.configure(config, text)
  configuration.check(config)
  return config, workdir, _MODE.value


def _default_workdir(config: str) -> str:
  """Returns where a run of FILE[:ARG] lives if nothing is said.

  >>> _default_workdir("configs/noisy_student.py:seed=3")
  'runs/noisy_student_seed_3'
  """
  file, _, arg = config.partition(":")
  words = [pathlib.Path(file).stem, *re.findall(r"[\w.]+", arg)]
  return f"runs/{'_'.join(words)}"


def main(argv: Sequence[str]) -> None:
  """Does what the arguments ask for; see the module's docstring. Raises: UserError."""
  config, workdir, mode = parse(argv)
  if _WORKDIR.value is None:
    sys.stdout.write(f"--workdir={workdir}\n")
  # JAX is imported after the arguments were found to be right: a typing error costs no time.
  from effnets import commands, parallel

  parallel.initialize(
    coordinator=config.processes.coordinator,
    num_processes=config.processes.count,
    process_id=config.processes.index,
  )
  with parallel.together():
    leaves = configuration.flatten(json.loads(configuration.to_json(config)))
    same = {f"config.{k}": v for k, v in leaves.items() if not k.startswith(_EACH_ITS_OWN)}
    parallel.agree({"--mode": mode, "--workdir": workdir, **same})
    getattr(commands, mode)(config, workdir)


def _worth_showing(record: Any) -> bool:
  """Returns whether a log record is for the terminal: not what Orbax has to say of its speed."""
  verbose = logging.get_verbosity() > logging.WARNING
  return verbose or record.levelno >= std_logging.ERROR or "/orbax/" not in record.pathname


def run(argv: Sequence[str]) -> int:
  """Returns the exit status of `main(argv)`; a user's mistake is one message and status 2."""
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().addFilter(_worth_showing)
  if {"-h", "-help", "--help", "--helpfull", "--helpshort"} & set(argv[1:]):
    sys.stdout.write(f"{__doc__.strip()}\n")
    return 0
  try:
    main(argv)
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  except KeyboardInterrupt:
    sys.stderr.write("Interrupted; the same command continues from the last checkpoint.\n")
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(run(sys.argv))
