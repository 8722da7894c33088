"""Training recipes of detectors and of segmentation."""

import ml_collections

from effnets import models

# Steps of one epoch in the published settings: 118,287 pictures at 256.
_SPINENET_EPOCH = 463


def scene_model(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the registered model `name`, its image size, and how scenes come to it."""
  entry = models.entry(name)
  config.data.image_size = entry.image_size
  config.model = ml_collections.ConfigDict(
    {
      "name": name,
      "drop_path_rate": entry.drop_path_rate,
      "padding": "SAME",
      "dtype": "float32",
      "remat": "none",
      "frozen_blocks": 0,
    }
  )
  config.data.scenes = ml_collections.ConfigDict(
    {
      "size": (),
      "max_objects": 100,
      "jitter": (0.1, 2.0),
      "flip": 0.5,
      "keep_aspect": True,
    }
  )


def detector(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the registered detector `name`, its image size, and what a task on it takes.

  Matching, losses and suppression are RetinaNet's, in EfficientDet's numbers.
  Source: the sheet of detection, section 3.1.
  """
  scene_model(config, name)
  config.task = ml_collections.ConfigDict(
    {
      "name": "detection",
      "positive": 0.5,
      "negative": 0.5,
      "force": "best",
      "scales": (1.0, 1.0, 1.0, 1.0),
      "background": False,
      "class_loss": "focal",
      "alpha": 0.25,
      "gamma": 1.5,
      "label_smoothing": 0.0,
      "delta": 0.1,
      "box_weight": 50.0,
      "skip_zeros": True,
      "normalizer": "plus_one",
    }
  )
  config.detections = ml_collections.ConfigDict(
    {
      "kind": "gaussian",
      "overlap": 0.5,
      "sigma": 0.5,
      "threshold": 0.001,
      "most": 100,
      "candidates": 5000,  # pairs of anchor and class; 0 takes all
      "shown": 0.4,  # least score of what is drawn
      "voc": "",  # a rule of `evaluation.voc`, whose figure is added
    }
  )
  config.augment = ml_collections.ConfigDict(
    {
      "autoaugment": {"policy": ""},
      "randaugment": {"layers": 0, "magnitude": 5.0, "operations": "detection10"},
    }
  )
  config.checkpoint.best_metric = "ap"


def coco(config: ml_collections.ConfigDict) -> None:
  """Sets COCO 2017: TFDS's, of which `validation` is judged.

  `--config.data.source=coco:PATH` reads the published folders. Classes are the 90 ids of categories
  less one, with gaps, as the published detectors count.
  """
  config.data.update(
    {
      "source": "coco/2017",
      "split": {"train": "train", "validation": "validation", "test": "validation"},
      "workers": 16,
    }
  )
  config.data.options.sparse = True
  config.plan.classes = 90  # of a set that is not here
  config.checkpoint.update({"every_percent": 1.0, "keep": 3})
  config.evaluation.every_percent = 2.0
  config.log_every_steps = 100


def efficientdet_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets EfficientDet's recipe on COCO for `name`, 300 epochs (d7 and d7x: 600).

  What keeps bfloat16 from NaN at this rate: losses, anchors and boxes are float32, each gradient is
  clipped and then all together, and warm-up begins at a twentieth.
  Source: Tan et al. 2020 (EfficientDet), section 5.1, and the official code, which clips.
  """
  detector(config, name)
  coco(config)
  config.model.dtype = "bfloat16"
  config.batch_size = config.eval_batch_size = 128
  # Four images on each of 32 cores, synchronised.
  config.batch_norm.group = "global"
  config.train.epochs = 600.0 if name.removeprefix("efficientdet_") in ("d7", "d7x") else 300.0
  config.optimizer.update(
    {"name": "sgd", "learning_rate": 0.08, "learning_rate_per_examples": 64, "momentum": 0.9}
  )
  config.optimizer.update({"nesterov": False, "weight_decay": 4e-5})
  # Kernels alone decay, and no weights of fusions.
  config.optimizer.undecayed = ("bias$", "edges$")
  config.optimizer.update({"clip_each": 10.0, "clip_norm": 10.0})
  config.schedule.update({"name": "cosine", "warmup_epochs": 1.0, "warmup_start": 0.05})
  config.schedule.update({"decay_epochs": config.train.epochs - 1, "clamp": False})
  config.ema.decay = 0.9998


def instances(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the registered Mask R-CNN `name`, its image size, and what a task on it takes.

  Source: the sheet of detection, sections 2.4 and 3.1: the numbers of the TPU code.
  """
  scene_model(config, name)
  # Side of an object's mask over its box, from which targets of regions are cut.
  config.data.scenes.mask_size = 112
  config.task = ml_collections.ConfigDict(
    {
      "name": "instances",
      "proposal_positive": 0.7,
      "proposal_negative": 0.3,
      "proposal_samples": 256,
      "proposal_share": 0.5,
      "proposal_delta": 1 / 9,
      "candidates": 2000,
      "tested_candidates": 1000,
      "proposal_overlap": 0.7,
      "proposals": 1000,
      "smallest": 0.0,
      "positive": 0.5,
      "samples": 512,
      "share": 0.25,
      "with_truth": True,
      "scales": (10.0, 10.0, 5.0, 5.0),
      "offset": 1.0,
      "delta": 1.0,
    }
  )
  config.detections = ml_collections.ConfigDict(
    {
      "kind": "hard",
      "overlap": 0.5,
      "sigma": 0.5,
      "threshold": 0.05,
      "most": 100,
      "shown": 0.5,  # least score of what is drawn
      "voc": "",
    }
  )
  config.augment = ml_collections.ConfigDict()
  config.checkpoint.best_metric = "mask_ap"


def _coco_masks(config: ml_collections.ConfigDict) -> None:
  coco(config)
  # TensorFlow Datasets has no masks.
  config.data.source = "coco:coco"
  config.data.split.update({"train": "train", "validation": "val", "test": "val"})
  config.data.options.masks = True
  config.plan.examples = 118_287  # of a folder that is not here


def mask_rcnn_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the TPU code's recipe of Mask R-CNN on a ResNet: 22,500 steps of 64, no scale jitter.

  The folder of COCO is `--config.data.source=coco:PATH`.
  Source: the official settings; from ImageNet's weights there, `--config.weights=` here.
  """
  instances(config, name)
  _coco_masks(config)
  config.data.scenes.jitter = (1.0, 1.0)
  config.model.dtype = "bfloat16"
  config.batch_size = config.eval_batch_size = 64
  config.batch_norm.group = "global"
  config.model.update({"momentum": 0.997, "epsilon": 1e-4})
  config.train.steps = 22_500
  config.optimizer.update({"name": "sgd", "learning_rate": 0.08, "momentum": 0.9})
  config.optimizer.update({"nesterov": False, "weight_decay": 1e-4})
  config.optimizer.undecayed = ("bias$",)
  config.schedule.update({"name": "step", "warmup_steps": 500, "warmup_start": 0.0067 / 0.08})
  config.schedule.boundaries_steps = (15_000, 20_000)


def mask_rcnn_spinenet_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets SpineNet's protocol B of Mask R-CNN on COCO, from scratch; 190's own is longer.

  The folder of COCO is `--config.data.source=coco:PATH`.
  Source: Du et al. 2020 (arXiv 1912.05027), section 5.1, and the official settings.
  """
  instances(config, name)
  _coco_masks(config)
  largest = name.endswith("_190")
  config.data.scenes.jitter = (0.1, 2.0) if largest else (0.5, 2.0)
  config.model.dtype = "bfloat16"
  if largest:
    config.model.update({"activation": "swish", "backbone_activation": "swish"})
    config.model.drop_path_rate = 0.2
  config.batch_size = config.eval_batch_size = 256
  config.batch_norm.group = "global"
  config.train.steps = 187_600 if largest else 350 * _SPINENET_EPOCH
  config.optimizer.update(
    {"name": "sgd", "learning_rate": 0.28, "learning_rate_per_examples": 256, "momentum": 0.9}
  )
  config.optimizer.update({"nesterov": False, "weight_decay": 4e-5})
  config.optimizer.undecayed = ("bias$",)
  config.schedule.update({"name": "step", "warmup_steps": 2000, "warmup_start": 0.0067 / 0.28})
  config.schedule.boundaries_steps = (173_530, 182_910) if largest else (148_160, 157_420)


def spinenet_coco(config: ml_collections.ConfigDict, name: str, protocol: str) -> None:
  """Sets SpineNet's protocol `a`, `b` or `c` of RetinaNet on COCO, from scratch.

  Source: Du et al. 2020 (arXiv 1912.05027), section 5.1, and the official settings, which clip.
  """
  detector(config, name)
  coco(config)
  config.task.background = True
  config.detections.update({"kind": "hard", "threshold": 0.05})
  config.model.dtype = "bfloat16"
  large = name.removeprefix("retinanet_spinenet_") in ("143", "143l", "190")
  epochs = {"a": 250, "b": 350, "c": 400 if name.endswith("_190") else 500}[protocol]
  jitter = {"a": (0.8, 1.2), "b": (0.5, 2.0), "c": (0.1, 1.9) if large else (0.5, 2.0)}[protocol]
  config.data.scenes.jitter = jitter
  activation, rate = (
    ("swish", 0.16 if "_143" in name else 0.2) if protocol == "c" else ("relu", 0.0)
  )
  config.model.update({"activation": activation, "backbone_activation": activation})
  config.model.drop_path_rate = rate
  config.batch_size = config.eval_batch_size = 256
  config.batch_norm.group = "global"
  config.train.steps = epochs * _SPINENET_EPOCH
  peak = 0.30 if name.endswith("_190") else 0.28
  config.optimizer.update(
    {"name": "sgd", "learning_rate": peak, "learning_rate_per_examples": 256, "momentum": 0.9}
  )
  config.optimizer.update({"nesterov": False, "weight_decay": 4e-5, "clip_norm": 10.0})
  config.optimizer.undecayed = ("bias$",)
  config.schedule.update({"name": "step", "warmup_steps": 2000, "warmup_start": 0.0067 / peak})
  config.schedule.boundaries_steps = tuple((epochs - last) * _SPINENET_EPOCH for last in (30, 10))


def mobile_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets what mobile detectors on COCO share: pictures squashed to a square, boxes in SSD's code.

  Source: settings of TensorFlow's detection API for SSDLite and MnasFPN.
  """
  detector(config, name)
  coco(config)
  config.data.scenes.update({"jitter": (1.0, 1.0), "keep_aspect": False})
  ssd_losses(config)
  config.detections.candidates = 0
  config.optimizer.undecayed = ("bias$",)
  config.optimizer.weight_decay = 4e-5


def ssd_losses(config: ml_collections.ConfigDict) -> None:
  """Sets matching, losses and suppression of SSDLite and MnasFPN, focal loss included."""
  config.task.update({"scales": (10.0, 10.0, 5.0, 5.0), "background": True, "gamma": 2.0})
  config.task.update({"delta": 1.0, "box_weight": 1.0, "skip_zeros": False})
  config.task.normalizer = "at_least_one"
  config.detections.update({"kind": "hard", "overlap": 0.6, "threshold": 1e-8})


def ssdlite_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets SSDLite's recipe on COCO: MobileNetV3's, or that of MobileNetV2 for the bodies before it.

  Source: TensorFlow's detection API, sample settings.
  """
  mobile_coco(config, name)
  config.data.scenes.crop = "ssd"
  if "mobilenetv3" in name:
    config.task.alpha = 0.75
    config.batch_size = config.eval_batch_size = 512
    config.train.steps = 400_000
    config.optimizer.update({"name": "sgd", "learning_rate": 0.4, "momentum": 0.9})
    config.optimizer.nesterov = False
    config.schedule.update({"name": "cosine", "warmup_steps": 2000, "warmup_start": 1 / 3})
    return
  config.task.class_loss = "hard_negatives"
  config.batch_size, config.eval_batch_size = 24, 128
  config.train.steps = 400_000
  config.optimizer.update({"name": "rmsprop", "learning_rate": 0.004, "decay": 0.9})
  config.optimizer.update({"momentum": 0.9, "eps": 1.0})
  config.schedule.update({"name": "exponential", "decay_steps": 800_720, "decay_rate": 0.95})


def retinanet_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets RetinaNet as RandAugment and AutoAugment for detection were measured on it.

  300 epochs from scratch at batch 64; the sheet leaves out when the rate falls, which is cosine
  here. Source: Cubuk et al. 2019 (arXiv 1909.13719), section 4.5.
  """
  detector(config, name)
  coco(config)
  config.task.background = True
  config.detections.update({"kind": "hard", "threshold": 0.05})
  config.data.image_size = 640
  config.data.scenes.jitter = (0.8, 1.2)
  config.model.dtype = "bfloat16"
  config.batch_size = config.eval_batch_size = 64
  config.batch_norm.group = "global"
  config.train.epochs = 300.0
  config.optimizer.update({"name": "sgd", "learning_rate": 0.08, "momentum": 0.9})
  config.optimizer.update({"nesterov": False, "weight_decay": 1e-4, "clip_norm": 10.0})
  config.optimizer.undecayed = ("bias$",)
  config.schedule.update({"name": "cosine", "warmup_steps": 500, "warmup_start": 0.0067 / 0.08})


def mnasfpn_coco(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the released recipe of MnasFPN on COCO: 50,000 steps of 1,024 pictures, from scratch.

  Source: Chen et al. 2020 (arXiv 1912.01106), section 4.1; the released settings.
  """
  mobile_coco(config, name)
  config.data.scenes.jitter = (1.0, 1.15)
  config.batch_size = config.eval_batch_size = 1024
  config.batch_norm.group = "global"
  config.train.steps = 50_000
  config.optimizer.update(
    {"name": "sgd", "learning_rate": 4.0, "learning_rate_per_examples": 1024, "momentum": 0.9}
  )
  config.optimizer.update({"nesterov": False, "clip_norm": 10.0})
  config.schedule.update({"name": "cosine", "warmup_steps": 5000, "warmup_start": 0.026666 / 4})


def segmenter(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the registered segmentation network `name` and what a task on it takes."""
  scene_model(config, name)
  config.model.dropout_rate = models.entry(name).dropout_rate
  config.task = ml_collections.ConfigDict(
    {
      "name": "segmentation",
      "label_smoothing": 0.0,
      "hard_share": 1.0,  # of the pixels, those with the largest losses
      "hard_steps": 0,
      "scales": (1.0,),  # of evaluation
      "mirror": False,
    }
  )
  config.augment = ml_collections.ConfigDict()
  config.checkpoint.best_metric = "miou"


def cityscapes(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets DeepLab's recipe on Cityscapes, whose folder is `--config.data.source=segmentation:PATH`.

  Crops of 769 pixels in training as in evaluation; for whole pictures evaluate with
  `--config.data.scenes.size=1025,2049`.
  Source: Chen et al. 2018 (arXiv 1802.02611); Howard et al. 2019 (MobileNetV3), section 6.4.
  """
  segmenter(config, name)
  config.data.source = "segmentation:cityscapes"
  config.data.split.update({"train": "train", "validation": "val", "test": "val"})
  config.data.image_size = 769
  config.data.scenes.update({"jitter": (0.5, 2.0), "jitter_step": 0.25, "jitter_base": "picture"})
  config.model.dtype = "bfloat16"
  config.batch_size = config.eval_batch_size = 16
  config.batch_norm.group = "global"
  config.train.steps = 90_000
  config.optimizer.update({"name": "sgd", "learning_rate": 0.007, "momentum": 0.9})
  config.optimizer.update({"nesterov": False, "weight_decay": 4e-5})
  config.optimizer.undecayed = ("bias$",)
  config.schedule.update({"name": "polynomial", "power": 0.9})


def digit_scenes(config: ml_collections.ConfigDict, name: str, *, steps: int) -> None:
  """Sets the embedded scenes of several digits, and a recipe of minutes for the detector `name`."""
  detector(config, name)
  _small_scenes(config, steps)
  config.detections.update({"candidates": 1000, "most": 20, "shown": 0.3})


def ssdlite_digit_scenes(
  config: ml_collections.ConfigDict, name: str, *, steps: int = 1000
) -> None:
  """Sets the embedded scenes of several digits for the SSDLite `name`, and its first losses.

  With focal loss it learns in so few steps where digits are, but not which.
  """
  digit_scenes(config, name, steps=steps)
  ssd_losses(config)
  config.task.class_loss = "hard_negatives"


def digit_scenes_masks(config: ml_collections.ConfigDict, name: str, *, steps: int) -> None:
  """Sets the masks of the embedded scenes' digits, for the Mask R-CNN `name`."""
  instances(config, name)
  _small_scenes(config, steps)
  config.data.scenes.mask_size = 56
  config.batch_size = 16
  config.task.update({"proposal_samples": 64, "candidates": 200, "tested_candidates": 100})
  config.task.update({"proposals": 64, "samples": 32, "share": 0.5})
  config.detections.most = 20


def digit_scenes_seg(config: ml_collections.ConfigDict, name: str, *, steps: int) -> None:
  """Sets the classes of the pixels of the embedded scenes, for the segmentation network `name`."""
  segmenter(config, name)
  _small_scenes(config, steps)
  config.data.options.pixels = True


def _small_scenes(config: ml_collections.ConfigDict, steps: int) -> None:
  config.data.source = "digit_scenes"
  config.data.options.canvas = config.data.image_size = 96
  # No mirroring: a mirrored 5 is a 2 to some.
  config.data.scenes.update({"max_objects": 8, "jitter": (0.8, 1.25), "flip": 0.0})
  config.batch_size, config.eval_batch_size = 32, 64
  config.train.steps = steps
  config.model.momentum = 0.9
  config.optimizer.update({"name": "adam", "learning_rate": 3e-3, "clip_norm": 10.0})
  config.schedule.update({"name": "cosine", "warmup_percent": 5.0})
  config.ema.decay = 0.99
