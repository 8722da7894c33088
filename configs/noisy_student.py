"""Noisy Student (Xie et al. 2020, arXiv 1911.04252).

`configs/noisy_student.py`: 100 labelled and 1,100 unlabelled handwritten digits, a tiny teacher and
two students, with the controls; about five minutes on two CPU cores. Each student should beat the
teacher on the test digits.
`configs/noisy_student.py:imagenet,unlabelled=NAME`: the paper's run, B7 -> L2 -> L2 -> L2 on
ImageNet and a large unlabelled set of pictures (any TFDS name, `folder:PATH` or `pictures:PATH`),
the last one made fit for 800 pixels. TPU pods; days; 88.4 % in the paper.
`configs/noisy_student.py:b0,unlabelled=NAME` (to `b7`): one student of that size and the paper's
recipe for it, from a teacher of its own size, 78.1 % for b0 and 86.4 % for b7 in the paper. With
`teacher=l2` the published weights of the paper's largest student teach it, 78.8 % and 86.9 %; any
others by `teacher=NAME:SOURCE` or `teacher=run:DIR`.
`configs/noisy_student.py:svhn`: the run that can be done on one accelerator: B0 for 32 pixels on
69,257 house numbers and 531,131 more as the unlabelled set; 97.9 -> 98.6 % in the paper.
`configs/noisy_student.py:seed=3` draws everything anew.
"""

import ml_collections

from effnets import configuration, errors, recipes

# Student -> pictures of the unlabelled set for each labelled one, how much longer than 350 epochs,
# RandAugment's magnitude (None: crop and flip only). Source: the official code's scripts.
_STUDENTS = {
  "b0": (1.0, 2, None),
  "b1": (3.0, 2, None),
  "b2": (3.0, 2, 6.0),
  "b3": (3.0, 2, 12.0),
  "b4": (3.0, 2, 15.0),
  "b5": (3.0, 1, 18.0),
  "b6": (3.0, 1, 24.0),
  "b7": (3.0, 1, 27.0),
}
# The last student of the paper, at the size it was trained at.
_L2 = "tf_efficientnet_l2.ns_jft_in1k_475"
# The size that L2 is trained at; it is registered with the one it is fine-tuned at.
_L2_SIZE = 475


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  words = ["digits", "svhn", "imagenet", *_STUDENTS]
  args = configuration.arguments(arg, words=words, seed=0, unlabelled="", teacher="")
  config = configuration.base()
  config.seed = args.seed
  size = next((word for word in args.words if word in _STUDENTS), "")
  if args.teacher and not size:
    raise errors.UserError(
      f"the config's argument teacher={args.teacher!r} goes with a student's size, b0 to b7."
    )
  if size:
    _imagenet(config)
    _one_student(config, size, _L2 if args.teacher == "l2" else args.teacher)
  elif "imagenet" in args.words:
    _imagenet(config)
    _large_students(config)
  elif "svhn" in args.words:
    _svhn(config)
  else:
    _digits(config)
  if args.unlabelled:
    config.pipeline.labels.source = args.unlabelled
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
  config.pipeline = recipes.noisy_student(
    teacher={"batch_size": 64},
    students={"student_1": {}, "student_2": {}},
    labels={
      "source": "digits",
      "split": "unlabelled",
      "per_class": 110,
      "select": "each",
      "batch_size": 256,
      "dtype": "float32",
    },
    controls={"no_noise": True, "no_unlabelled": True},
  )


def _svhn(config):
  """The official code's SVHN script (the sheet's section 4), its labels stored beforehand.

  Its teacher answers while the student trains; it sees whole pictures without noise, so that it
  always says the same of each.
  """
  config.data.update(
    {
      "source": "svhn_cropped",
      # The code permutes the training set before it holds 4,000 out.
      "split": {"train": "train[4000:]", "validation": "train[:4000]", "test": "test"},
      "mean": (0.4376821, 0.4437697, 0.47280442),
      "std": (0.19803012, 0.20101562, 0.19703614),
    }
  )
  config.data.unlabelled.update({"source": "pseudo_labels", "ratio": 5.0})
  # The code moves the picture after it has cut out of it.
  config.augment.update({"shift": 4, "shift_mode": "reflect", "operations_first": True})
  config.augment.update({"cutout": 16, "cutout_fill": 128})
  config.augment.randaugment.update(
    {"layers": 2, "magnitude": 5.0, "cutout_const": 4.0, "translate_const": 4.0}
  )
  config.model.update({"name": "efficientnet_b0", "small_images": True})
  config.batch_size = 128
  config.eval_batch_size = 1024
  config.train.steps = 109_474
  config.optimizer.update(
    {"name": "rmsprop", "learning_rate": 0.016, "learning_rate_per_examples": 256}
  )
  config.optimizer.update({"decay": 0.9, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-4})
  # At the end 2e-4 for every 256 pictures.
  config.schedule.update(
    {
      "name": "exponential",
      "warmup_epochs": 5.0,
      "decay_rate": 0.97,
      "final_fraction": 2e-4 / 0.016,
    }
  )
  config.ema.decay = 0.9999
  config.checkpoint.update({"every_percent": 1.0, "keep": 3})
  config.evaluation.every_percent = 2.0
  config.log_every_steps = 100
  # All of them: `per_class=53113`, the code's number for balanced classes, and `use_all=False`
  # choose as its offline script does, with `min_confidence=0.3`.
  config.pipeline = recipes.noisy_student(
    teacher={},
    students={"student_1": {}},
    labels={
      "source": "svhn_cropped",
      "split": "extra",
      "min_confidence": 0.0,
      "per_class": 531_131,
      "use_all": True,
      "batch_size": 1024,
      "dtype": "float32",
    },
  )


def _imagenet(config):
  recipes.efficientnet_imagenet(config)
  config.data.unlabelled.source = "pseudo_labels"
  config.mesh.update({"data": -1, "fsdp": 8})
  config.checkpoint.update({"every_percent": 0.5, "keep": 3})
  config.evaluation.every_percent = 2.0


def _b0_filter():
  """Returns the network that chooses pictures: a B0 that has seen ImageNet alone."""
  return {
    "model": {"name": "efficientnet_b0", "dropout_rate": 0.2, "remat": "none"},
    "data": {"image_size": 224},
    "augment": {"randaugment": {"layers": 0}},
    "train": {"epochs": 350.0},
    "schedule": {"decay_epochs": 2.4},
  }


def _large_students(config):
  config.data.image_size = _L2_SIZE
  config.data.unlabelled.ratio = 14.0
  config.augment.randaugment.update({"layers": 2, "magnitude": 27.0})
  config.model.update({"name": "efficientnet_l2", "dropout_rate": 0.5, "remat": "block"})
  config.pipeline = recipes.noisy_student(
    teacher={
      "model": {"name": "efficientnet_b7", "remat": "none"},
      "data": {"image_size": 600},
      "augment": {"randaugment": {"magnitude": 28.0}},
    },
    students={
      "student_1": {},
      "student_2": {},
      "student_3": {"data": {"unlabelled": {"ratio": 28.0}}},
    },
    labels={},
    filter=_b0_filter(),
    # 1.5 epochs at the test resolution on clean labelled pictures, the shallow half frozen; they
    # are the last of the long run's schedule.
    finetune={
      "data": {"image_size": 800, "random_crop": False},
      "model": {"frozen_blocks": 44},
      "train": {"epochs": 1.5},
      "schedule": {"total_epochs": 350.0},
    },
  )


def _one_student(config, size, teacher):
  ratio, longer, magnitude = _STUDENTS[size]
  recipes.one_model(config, f"efficientnet_{size}")
  config.data.unlabelled.ratio = ratio
  config.train.epochs = 350.0 * longer
  config.schedule.decay_epochs = 2.4 * longer
  if magnitude is not None:
    config.augment.randaugment.update({"layers": 2, "magnitude": magnitude})
  # One that is trained here sees the labelled pictures for as long as any network without others.
  own = {"train": {"epochs": 350.0}, "schedule": {"decay_epochs": 2.4}}
  config.pipeline = recipes.noisy_student(
    teacher={"weights": teacher} if teacher else own,
    given="teacher" if teacher else "",
    students={"student_1": {}},
    labels={},
    filter=_b0_filter(),
  )
