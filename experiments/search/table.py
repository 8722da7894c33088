"""Trains every network of a small space at three seeds, and stores what each was worth.

`python experiments/search/table.py`

All 512 networks of `mnas_micro` on `cluttered_digits`, as an exhaustive search a seed, whose
children share their programs. Leaves `table.jsonl` here, for `config.search.evaluator.name=table`;
each network has `accuracy` and `loss` on the hold-out part, `params`, `madds` and `latency`, in
milliseconds by `lut.json`, which is

`python -m effnets.search.lut --space=mnas_micro --image_size=16 --num_classes=10
--out=experiments/search/lut.json`

on the machine that the card names. Resumable: networks that are trained are not trained again.
"""

import pathlib
import sys

import ml_collections

from effnets import card, configuration, errors
from effnets.search import proxy, recipes, spaces
from effnets.search import study as study_lib

HERE = pathlib.Path(__file__).parent
RUN = pathlib.Path("runs/cards/search/table")
TABLE = HERE / "table.jsonl"
LUT = HERE / "lut.json"
SPACE = "mnas_micro"
TARGET = 0.08  # milliseconds, about the median network's
SEEDS = (0, 1, 2)
COMMAND = "python experiments/search/table.py"


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `seed=`, `algorithm=`, `trials=`, `batch_size=`, `latency=`, `target=`."""
  args = configuration.arguments(
    arg,
    **{"seed": 0, "algorithm": "exhaustive", "trials": 0, "batch_size": 0},
    **{"latency": str(LUT), "target": TARGET},
  )
  config = configuration.base()
  config.seed = args.seed
  recipes.clutter(config, SPACE, target=args.target)
  recipes.arguments(config, args)
  config.search.trials = args.trials or spaces.create(SPACE).count_raw()
  config.search.any_code = True
  return config.lock()


def store(space, searches, path: pathlib.Path, command: str = COMMAND) -> int:
  """Writes the table of a space's finished searches; returns how many trainings it has.

  searches: the records of each. command: what made it, and goes on if networks are missing.

  Raises: UserError if a network of the space is not among the records of a search.
  """
  trained = []
  for records in searches:
    done = {record.key: record for record in records if record.state is study_lib.State.COMPLETE}
    missing = space.count_unique() - len(done)
    if missing:
      raise errors.UserError(
        f"{missing} of {space.count_unique()} networks of {space.name!r} are not trained; "
        f"`{command}` goes on."
      )
    trained += done.values()
  return proxy.write_table(path, space, trained, command)


def main() -> int:
  """Trains what is missing and writes `table.jsonl`; returns the exit status."""
  searches = [card.search(f"{__file__}:seed={seed}", RUN / str(seed)) for seed in SEEDS]
  try:
    count = store(spaces.create(SPACE), searches, TABLE)
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  sys.stdout.write(f"{TABLE}: {count} trainings\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
