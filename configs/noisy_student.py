"""Noisy Student (Xie et al. 2020, arXiv 1911.04252).

`configs/noisy_student.py`: 100 labelled and 1,100 unlabelled handwritten digits, a tiny teacher and
two students, with the controls; about five minutes on two CPU cores. Each student should beat the
teacher on the test digits.
`configs/noisy_student.py:imagenet,unlabelled=NAME`: the paper's run, B7 -> L2 -> L2 -> L2 on
ImageNet and a large unlabelled set of pictures (any TFDS name or `folder:PATH`), the last one made
fit for 800 pixels. TPU pods; days; 88.4 % in the paper.
`configs/noisy_student.py:seed=3` draws everything anew.
"""

import ml_collections

from effnets import configuration, recipes


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of `digits` or `imagenet`, `seed=`, `unlabelled=`."""
  args = configuration.arguments(arg, words=["digits", "imagenet"], seed=0, unlabelled="")
  config = configuration.base()
  config.seed = args.seed
  if "imagenet" in args.words:
    _imagenet(config, args.unlabelled)
  else:
    _digits(config)
  return config.lock()


def _digits(config):
  recipes.small_images(config, steps=400)
  config.data.source = "digits"
  config.data.split.train = "labelled"
  config.data.unlabelled.update({"source": "pseudo_labels", "ratio": 3.0})
  config.augment.randaugment.update(
    {"layers": 2, "magnitude": 5.0, "cutout_const": 4.0, "translate_const": 4.0}
  )
  config.batch_size = 32
  config.pipeline = ml_collections.ConfigDict(
    {
      "name": "noisy_student",
      "teacher": {"batch_size": 64},
      "students": {"student_1": {}, "student_2": {}},
      "finetune": {},
      "labels": {
        "source": "digits",
        "options": {},
        "split": "unlabelled",
        "kind": "soft",
        "min_confidence": 0.3,
        "per_class": 110,
        "upsample": True,
      },
      "controls": {"no_noise": True, "no_unlabelled": True},
    }
  )


def _imagenet(config, unlabelled):
  recipes.efficientnet_imagenet(config)
  config.data.image_size = 475
  config.data.unlabelled.update({"source": "pseudo_labels", "ratio": 14.0})
  config.augment.randaugment.update({"layers": 2, "magnitude": 27.0})
  config.model.update({"name": "efficientnet_l2", "dropout_rate": 0.5, "remat": "block"})
  config.mesh.update({"data": -1, "fsdp": 8})
  config.checkpoint.update({"every_percent": 0.5, "keep": 3})
  config.evaluation.every_percent = 2.0
  config.pipeline = ml_collections.ConfigDict(
    {
      "name": "noisy_student",
      "teacher": {
        "model": {"name": "efficientnet_b7", "remat": "none"},
        "data": {"image_size": 600},
        "augment": {"randaugment": {"magnitude": 28.0}},
      },
      "students": {
        "student_1": {},
        "student_2": {},
        "student_3": {"data": {"unlabelled": {"ratio": 28.0}}},
      },
      # 1.5 epochs at the test resolution on clean labelled pictures, the shallow half frozen.
      "finetune": {
        "data": {"image_size": 800, "random_crop": False},
        "model": {"frozen_blocks": 44},
        "train": {"epochs": 1.5},
        # The last steps of the long run's schedule: its rate there does not change any more.
        "optimizer": {"learning_rate": 0.016 * 0.97**145},
        "schedule": {
          "name": "constant",
          "warmup_epochs": None,
          "decay_epochs": None,
          "decay_rate": None,
        },
      },
      "labels": {
        "source": unlabelled,
        "options": {},
        "split": "train",
        "kind": "soft",
        "min_confidence": 0.3,
        "per_class": 130_000,
        "upsample": True,
      },
      "controls": {"no_noise": False, "no_unlabelled": False},
    }
  )
