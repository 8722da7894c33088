"""AdvProp (Xie et al. 2020, arXiv 1911.09665).

`configs/advprop.py`: a tiny network on 200 handwritten digits, with auxiliary norms for a one-step
attacker.
`configs/advprop.py:b0` (to `b8`): the paper's ImageNet recipe for that EfficientNet, with the
attacker that suits its size; the paper's top-1 is 77.6 % for b0, 85.2 % for b7, 85.5 % for b8. A
step of a five-step attacker costs seven of ordinary training.
`fine` adds the part of fine-grained AdvProp, pictures without the policy, whose norms are then the
main ones. `batch_size=`, `seed=` set the two that change most.

Training tells how often attacks succeed (`fooled`), how far they move a pixel (`perturbation`, in
levels of 255) and how often a picture goes through the network in a step (`passes`). Evaluation and
exports take the main norms, as a plain network; with `--config.adversary.evaluated=1` the
auxiliary ones. `--config.model.norm_sets=1` is adversarial training without auxiliary norms.
"""

import ml_collections

from effnets import configuration, recipes

MEMBERS = [f"b{i}" for i in range(9)]

# Radius and steps: the paper's better one of 1 (one step) and 4 (five) for each size; for b3,
# where they are equal, one between.
_STRONG = {"b3": (2.0, 3)} | dict.fromkeys(MEMBERS[4:], (4.0, 5))


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg`: a member, `imagenet`, `digits`, `fine`, `batch_size=`, `seed=`."""
  words = ["imagenet", "digits", "fine", *MEMBERS]
  args = configuration.arguments(arg, words=words, batch_size=0, seed=0)
  config = configuration.base()
  config.seed = args.seed
  config.task.name = "advprop"
  config.adversary = ml_collections.ConfigDict(
    {
      "kind": "pgd",
      "epsilon": 1.0,  # levels of [0, 255], as is step
      "step": 1.0,
      "steps": 1,
      "targeted": True,  # at a random wrong class; False: away from the true one
      "clean_start": 0.0,
      "parts": ("clean", "adversarial"),
      "evaluated": 0,
    }
  )
  members = [word for word in args.words if word in MEMBERS]
  if members or "imagenet" in args.words:
    _imagenet(config, members[-1] if members else "b0")
  else:
    _digits(config)
  if "fine" in args.words:
    config.adversary.parts = ("plain", *config.adversary.parts)
  config.model.norm_sets = len(config.adversary.parts)
  if args.batch_size:
    config.batch_size = args.batch_size
  return config.lock()


def _digits(config):
  recipes.small_images(config, steps=300)
  config.data.options.labels = 200
  config.data.split.train = "labelled"
  config.data.update({"mean": (0.5,) * 3, "std": (0.5,) * 3})
  config.adversary.update({"epsilon": 16.0, "step": 16.0})
  config.batch_size = 32


def _imagenet(config, member):
  recipes.efficientnet_imagenet(config)
  recipes.one_model(config, f"efficientnet_{member}")
  config.augment.autoaugment.policy = "v0"
  # Pixels in [-1, 1], as all released weights of this paper want them.
  config.data.update({"mean": (0.5,) * 3, "std": (0.5,) * 3})
  radius, steps = _STRONG.get(member, (1.0, 1))
  config.adversary.update({"epsilon": radius, "steps": steps})
