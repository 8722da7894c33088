"""Architecture-aware distillation (Liu et al. 2020, arXiv 1911.09074), for `--mode=search`.

The reward is the accuracy of children that learned from a teacher, so that the search finds what
that teacher teaches best; beside it the conventional search, whose winner is distilled afterwards.
`configs/akd.py`: a teacher trained on the embedded digits, both searches in a space of four narrow
blocks, 16 children of 100 steps each, their winners trained in full without and with the teacher:
akd.json, plots/students.png, plots/structure.png; meant for 15 minutes on two cores.
`teachers=2`: a second teacher of another kind, its search, and that of both together (`a+b`, an
ensemble: their probabilities are averaged). `ensemble`: both teachers, but of the searches only
that of both and the conventional one, whose winner both distil too.
`matrix=5`: five random students of nearly the target's cost, trained under every teacher and
without one: which is best for whom; goes with `teachers=2`. In akd.json and plots/matrix.png.
`transfer`: the winners, as trained without and with the teacher, go on for 300 steps on
cluttered digits; in akd.json and plots/transfer.png. `imagenet,transfer=cars`: on one of the small
sets of configs/mixnet.py, by the recipe there (`folder=PATH` for birdsnap, aircraft). The paper's
own transfer, the identification of a face among a million, has no data here.
`configs/akd.py:imagenet,teacher=NAME:SOURCE`: the paper's: 5 epochs of ImageNet a child, 50,000
training images held out, 10,000 children, weight 0.9 at temperature 1, accuracy * (cost/T)^-0.07.
The paper's teacher is Inception-ResNet-v2, which is not here; the default is EfficientNet-B7.
`width=0.5` narrows the space, as targets of 15 to 35 ms on phones need; T is multiply-adds unless
`config.search.latency_table` is set.
Arms are `config.akd.searches`, see effnets/search/akd.py. `trials=`, `seeds=`, `seed=`,
`batch_size=`, `algorithm=`, `target=` set what changes most.
"""

import ml_collections

from effnets import configuration, errors
from effnets.search import recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  args = configuration.arguments(
    arg,
    words=["imagenet", "ensemble", "transfer"],
    teacher="",
    teachers=1,
    matrix=0,
    transfer="",
    folder="",
    width=1.0,
    seeds=1,
    algorithm="",
    trials=0,
    seed=0,
    batch_size=0,
    target=0.0,
  )
  if args.teachers not in (1, 2) or args.seeds < 1:
    raise errors.UserError("the config's arguments: teachers is 1 or 2, seeds at least 1.")
  _check_transfer(args)
  several = args.teachers == 2 or "ensemble" in args.words
  config = configuration.base()
  config.seed = args.seed
  if "imagenet" in args.words:
    recipes.imagenet(config, "mnas", target=200e6)
    config.search.trials = 10_000
    config.search.space.options.width = args.width
    retrain = {"train": {"epochs": 350.0}, "schedule": {"warmup_epochs": 5.0}}
    retrain |= {"ema": {"decay": 0.9999}}
    given = {"weights": args.teacher or "tf_efficientnet_b7.aa_in1k"}
    teachers = {"teacher": given}
    if several:
      teachers["second"] = {"weights": "tf_efficientnet_b4.aa_in1k"}
  else:
    recipes.digits(config, "mnas_tiny", target=1e6)
    config.search.trials = 16
    retrain = {"train": {"steps": 200}, "ema": {"decay": 0.99}}
    longer = {"train": {"steps": 300}, "ema": {"decay": 0.99}}
    teachers = {"efficient": {**longer, "model": _model("efficientnet_tiny")}}
    if args.teacher:
      teachers = {"given": {"weights": args.teacher}}
    if several:
      teachers["mixed"] = {**longer, "model": _model("mixnet_tiny")}
  names = list(teachers)
  arms = [] if "ensemble" in args.words else names
  arms = ["plain", *arms, *(["+".join(names)] if several else [])]
  transfer = {}
  if args.transfer or "transfer" in args.words:
    transfer = recipes.elsewhere(args.transfer, args.folder)
  config.akd = ml_collections.ConfigDict(
    {
      "teachers": teachers,
      "searches": ",".join(arms),
      "seeds": tuple(range(args.seed, args.seed + args.seeds)),
      "top": 1,
      "retrain": retrain,
      "weight": 0.9,
      "temperature": 1.0,
      "ensemble": "probabilities",
      "matrix": {"students": args.matrix, "within": 0.1},
      "transfer": transfer,
    }
  )
  recipes.arguments(config, args)
  return config.lock()


def _check_transfer(args):
  where = "the config's argument"
  if args.transfer and "imagenet" not in args.words:
    raise errors.UserError(
      f"{where} transfer={args.transfer!r} goes with imagenet; of the embedded sets there is one: "
      "write transfer alone."
    )
  if "transfer" in args.words and "imagenet" in args.words:
    raise errors.UserError(f"{where} transfer with imagenet names a set, such as transfer=cars.")
  if args.folder and not args.transfer:
    raise errors.UserError(f"{where} folder={args.folder!r} goes with transfer=SET.")


def _model(name):
  return {"name": name, "dropout_rate": 0.2, "drop_path_rate": 0.0, "momentum": 0.9}
