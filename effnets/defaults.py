"""The fields that every config has, and their defaults."""

import ml_collections


def base() -> ml_collections.ConfigDict:
  """Returns the fields that every config has, with defaults for a small classification run."""
  config = ml_collections.ConfigDict()
  config.pipeline = ml_collections.ConfigDict({"name": ""})  # several stages, or none
  config.seed = 0
  # To start from or to evaluate: NAME[:SOURCE] of a weight set, or run:DIR for a run of one's own.
  config.weights = ""
  config.new_head = False  # whether their classifier may be replaced if the classes differ
  config.input = ""  # a picture, or a folder of them, for `--mode=predict`
  config.class_names = ""  # a file, one name a line; empty: the data's, or ImageNet's if 1,000

  config.task = ml_collections.ConfigDict(
    {
      "name": "classification",
      "label_smoothing": 0.1,
      "temperature": 1.0,  # of soft labels
      "mixup": 0.0,  # alpha; 0 is off
      "cutmix": 0.0,  # alpha; 0 is off
      "cutmix_probability": 1.0,  # of an example; the others get mixup, if it is on
      "mixup_group": 2,  # images, contiguous, within which pairs are made
    }
  )
  config.data = ml_collections.ConfigDict(
    {
      "source": "digits",
      "options": {},  # of the source, such as `data_dir` of TFDS or `labels` of digits
      "split": {"train": "train", "validation": "validation", "test": "test"},
      "image_size": 32,
      # Evaluation crop: size / (size + crop_padding) of the shorter side; -1 is the model's own.
      "crop_padding": -1,
      "crop_fraction": 0.0,  # instead of crop_padding, if not 0
      "resize": "crop",  # or squash: the whole picture made square, then cut on all sides
      "interpolation": "",  # bilinear or bicubic; empty, as below: the model's own
      "mean": (),
      "std": (),
      "random_crop": True,  # inception-style crop where the host decodes pictures
      "max_unreadable": 0.01,  # share of unreadable examples that stops the run
      "threads": 4,
      "workers": 0,  # processes that decode; 0 uses threads only
      # A second source in every batch; `ratio` of its examples per example of the first.
      "unlabelled": {
        "source": "",
        "options": {},
        "split": "unlabelled",
        "ratio": 0.0,
        "weight": 0.0,  # of its mean loss; 0 is `ratio`, as the papers' code has it
        # Whether the two are averaged, as if over the whole batch, where the code adds them up.
        "average": False,
      },
    }
  )
  config.augment = ml_collections.ConfigDict(
    {
      "flip": False,
      "shift": 0,  # pixels of random translation
      "cutout": 0,  # side of the square in pixels
      "erasing": {"probability": 0.0},
      "autoaugment": {"policy": ""},
      "randaugment": {
        "layers": 0,
        "magnitude": 9.0,
        "operations": "code16",
        "cutout_const": 40.0,
        "translate_const": 100.0,
      },
    }
  )
  config.model = ml_collections.ConfigDict(
    {
      "name": "efficientnet_tiny",
      "dropout_rate": 0.2,
      "drop_path_rate": 0.2,
      "padding": "SAME",
      "dtype": "float32",
      "remat": "none",
      "frozen_blocks": 0,
    }
  )
  config.batch_norm = ml_collections.ConfigDict({"group": "local"})  # local, global or images
  config.batch_size = 64  # labelled examples per step, over all devices
  config.eval_batch_size = 256
  config.train = ml_collections.ConfigDict({"steps": 0, "epochs": 0.0})  # exactly one is not 0
  config.accumulate = 1
  config.optimizer = ml_collections.ConfigDict()
  config.schedule = ml_collections.ConfigDict()
  config.ema = ml_collections.ConfigDict({"decay": 0.0})  # 0 keeps no average

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "space": 1})
  config.execution = "jit"
  config.sharding = ml_collections.ConfigDict({"rules": (), "min_size": 0})  # empty: the defaults
  config.processes = ml_collections.ConfigDict({"coordinator": "", "count": 0, "index": -1})

  config.checkpoint = ml_collections.ConfigDict(
    {"every_percent": 20.0, "keep": 2, "best_metric": "top1", "best_mode": "max"}
  )
  config.evaluation = ml_collections.ConfigDict(
    {"every_percent": 20.0, "checkpoint": "last"}  # which one `--mode=evaluate` takes, or best
  )
  # `--mode=few_shot`: numbers of examples per class; how often each is drawn; the network's end
  # point; penalties to choose from.
  config.few_shot = ml_collections.ConfigDict(
    {"shots": (1, 5, 10), "draws": 5, "features": "pooled_features", "l2": ()}
  )
  config.export = ml_collections.ConfigDict(  # for `--mode=export`
    {
      "format": "stablehlo",  # onnx, savedmodel, stablehlo or tflite
      "path": "",  # a folder; empty: export/FORMAT in the workdir
      "batch_size": 1,  # of tflite and of detectors; other programs take any
      "suppression": True,  # of a detector's program: inside; else it ends with every anchor
      "int8": False,  # of tflite: weights and activations in eight bits
      "calibration_examples": 200,  # training images that decide the ranges of int8
      "accuracy_examples": 10_000,  # test images that tell what int8 loses; 0 takes all
    }
  )
  config.plan = ml_collections.ConfigDict(  # for `--mode=plan`
    {
      "topology": "v5e-16",  # a slice of TPUs by its usual name, cpu:N, or gpu
      "stage": "",  # of a pipeline; empty: every one
      "fraction": 0.4,  # of the roofline that the run is taken to reach
      "search_batch": False,  # look for the largest batch that fits
      "layouts": False,  # look at other layouts even if this one fits
      # Of a data set that is not here, if its size is not known.
      "examples": 0,
      "classes": 0,
    }
  )
  # What `--mode=robustness` measures on `data.split.test`; names stand in comma lists.
  config.robustness = ml_collections.ConfigDict(
    {
      "suites": "corruptions,sequences,attacks",  # also photos, which needs no data
      "corruptions": "",  # empty: the 15 of the mCE; all: the four others too
      "severities": (1, 2, 3, 4, 5),
      "folder": "",  # pictures that are corrupted already: PATH/CORRUPTION/SEVERITY/CLASS/IMAGE
      "frost": "",  # a folder with photos of frost, without which that corruption is skipped
      "sequences": "",  # empty: the ten of the mFR; all: the others too
      "films": "",  # of them, as published: PATH/PERTURBATION/CLASS/FILM; `examples` says how many
      "difficulty": 1,  # of sequences, up to 3
      "attacks": "fgsm,pgd",
      "epsilons": (1.0, 2.0, 4.0, 8.0, 16.0),  # in levels of 255
      "attack_steps": 10,  # of pgd, ifgsm and gd, each 2.5 epsilon / steps long
      "imagenet_a": "",  # its folder
      "stylized": "",  # a folder of pictures in another style, PATH/CLASS/IMAGE
      "release": 224,  # or 299: size of pictures before they are corrupted, if theirs differ
      "examples": 0,  # of the split, evenly spread; 0: all
      "sequence_examples": 50,  # of which sequences are made; 0: all
      "seed": 0,
      "reference": "",  # robustness.json of the model to compare with; empty: AlexNet's figures
    }
  )
  # Updates that JAX's profiler looks at, counted from the start: `tensorboard --logdir=DIR/tb`.
  config.profile = ml_collections.ConfigDict({"start": 10, "steps": 0})
  config.log_every_steps = 20
  config.tensorboard = True
  return config
