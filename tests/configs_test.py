"""Every config builds and is what its golden dump says; a recipe cannot move unseen."""

import difflib
import importlib
import itertools

import pytest

from effnets import configuration, errors, models, recipes, training
from effnets.pipelines import stages, sweep
from tests.golden import dump


@pytest.mark.parametrize("config", dump.CONFIGS)
def test_golden(config):
  path = dump.file(config)
  expected, found = path.read_text(encoding="utf-8"), dump.dump(config)
  difference = "\n".join(
    difflib.unified_diff(expected.splitlines(), found.splitlines(), str(path), "now", lineterm="")
  )
  assert not difference, f"{difference}\nIf that is meant: python -m tests.golden"


def test_every_config_has_a_dump_and_every_dump_a_config():
  names = {config.partition(":")[0] for config in dump.CONFIGS}
  assert names == {f"configs/{name}" for name in configuration.shipped()}
  assert {dump.file(c) for c in dump.CONFIGS} == set(dump.FOLDER.glob("*.txt"))


@pytest.mark.parametrize("member", [*(f"b{i}" for i in range(9)), "l2"])
def test_the_recipe_of_every_member(member):
  config = configuration.load(f"configs/efficientnet.py:{member}")
  configuration.check(config)
  assert config.model.name == f"efficientnet_{member}"
  assert (config.batch_size, config.train.epochs) == (2048, 350.0)


@pytest.mark.parametrize(
  ("config", "values"),
  [
    (
      "mnasnet.py:a1_075",
      {"model.name": "mnasnet_a1_075", "batch_size": 1024, "train.epochs": 350.0},
    ),
    ("mnasnet.py:small", {"model.dropout_rate": 0.0, "model.drop_path_rate": 0.0}),
    # BAM's code for all tasks at once, and for single ones.
    (
      "bam.py:glue",
      {
        "batch_size": 128,
        "train.epochs": 6.0,
        "optimizer.learning_rate": 1e-4,
        "optimizer.layer_decay": 0.9,
        "optimizer.bias_correction": False,
        "optimizer.clip_norm": 1.0,
        "pipeline.single.batch_size": 32,
        "pipeline.single.optimizer.learning_rate": 5e-5,
        "task.reduction": "sum",
      },
    ),
    ("mixnet.py:m", {"model.name": "mixnet_m", "model.dropout_rate": 0.25, "batch_size": 1024}),
    (
      "mobilenetv3.py:large_minimal",
      {"optimizer.eps": 0.002, "schedule.decay_rate": 0.99, "schedule.decay_epochs": 3.0},
    ),
    ("mobilenetv3.py:small,paper", {"batch_size": 4096, "optimizer.learning_rate": 0.1}),
    (
      "efficientdet.py:d7x",
      {"model.name": "efficientdet_d7x", "data.image_size": 1536, "train.epochs": 600.0},
    ),
    (
      "efficientdet.py:d0",
      {
        "batch_size": 128,
        "optimizer.learning_rate_per_examples": 64,
        "optimizer.learning_rate": 0.08,
        "model.drop_path_rate": 0.0,
        "data.scenes.jitter": (0.1, 2.0),
        "ema.decay": 0.9998,
      },
    ),
    # The official settings: steps, where the rate falls, the range of scales.
    (
      "spinenet.py:49,protocol=b",
      {
        "train.steps": 162_050,
        "schedule.boundaries_steps": (148_160, 157_420),
        "data.scenes.jitter": (0.5, 2.0),
        "model.activation": "relu",
      },
    ),
    (
      "spinenet.py:49",
      {
        "train.steps": 231_500,
        "schedule.boundaries_steps": (217_610, 226_870),
        "model.activation": "swish",
        "model.drop_path_rate": 0.2,
      },
    ),
    (
      "spinenet.py:190",
      {"train.steps": 185_200, "schedule.boundaries_steps": (171_310, 180_570)},
    ),
    (
      "mnasfpn.py:mobilenetv2",
      {"batch_size": 1024, "train.steps": 50_000, "optimizer.learning_rate": 4.0},
    ),
    (
      "mobilenetv3.py:coco,small",
      {"batch_size": 512, "train.steps": 400_000, "task.alpha": 0.75, "task.gamma": 2.0},
    ),
    ("mnasnet.py:coco", {"batch_size": 24, "task.class_loss": "hard_negatives"}),
    ("mobilenetv3.py:cityscapes", {"train.steps": 90_000, "data.image_size": 769}),
    (
      "randaugment.py:r200",
      {"augment.randaugment.layers": 1, "augment.randaugment.magnitude": 6.0},
    ),
    ("efficientnet.py:l2,imagenet", {"model.name": "efficientnet_l2", "data.image_size": 800}),
    # The published config files: glimpses of both stages, crop, decay, DRAM's weight of rewards.
    (
      "saccader.py:imagenet",
      {
        "data.crop_padding": 22,
        "data.interpolation": "bicubic",
        "optimizer.weight_decay": 8e-5,
        "glimpses.decay": 8e-5,
        "glimpses.location_decay": 8e-5,
        "pipeline.locate.model.glimpses": 12,
        "pipeline.reinforce.model.glimpses": 6,
        "pipeline.dram.glimpses.reinforce_weight": 0.1,
        "pipeline.dram.glimpses.location_decay": 0.0,
      },
    ),
    (
      "saccader.py:imagenet,patches",
      {"pipeline.patches.data.image_size": 331, "pipeline.patches.data.crop_padding": 33},
    ),
  ],
)
def test_recipes_are_the_sheets(config, values):
  config = configuration.load(f"configs/{config}")
  configuration.check(config)
  leaves = configuration.flatten(config)
  assert {key: leaves[key] for key in values} == values


# RandAugment's sheet, section 4: epochs, batch, peak rate, weight decay, N, M.
RANDAUGMENT = {
  "cifar10,wide_resnet_28_2": (200, 128, 0.1, 5e-4, 3, 4),
  "cifar10": (200, 128, 0.1, 5e-4, 3, 5),
  "shake_shake_26_2x96d": (1800, 128, 0.01, 1e-3, 3, 9),
  "cifar10,pyramidnet_272": (1800, 64, 0.05, 5e-5, 3, 7),
  "cifar100,wide_resnet_28_2": (200, 128, 0.1, 5e-4, 1, 2),
  "cifar100": (200, 128, 0.1, 5e-4, 2, 14),
  "svhn_core,wide_resnet_28_2": (200, 128, 5e-3, 5e-3, 3, 9),
  "svhn_core": (200, 128, 5e-3, 5e-3, 3, 9),
  "svhn,wide_resnet_28_2": (160, 128, 5e-3, 1e-3, 3, 5),
  "svhn": (160, 128, 5e-3, 1e-3, 3, 7),
}
_TRAINING_PICTURES = {"cifar": 50_000, "svhn_core": 73_257, "svhn": 73_257 + 531_131}


@pytest.mark.parametrize("arg", RANDAUGMENT)
def test_randaugments_small_recipes_are_the_sheets(arg):
  config = configuration.load(f"configs/randaugment.py:{arg}")
  configuration.check(config)
  name = arg.partition(",")[0]
  count = _TRAINING_PICTURES[name if name.startswith("svhn") else "cifar"]
  epochs, batch, rate, decay, layers, magnitude = RANDAUGMENT[arg]
  assert (config.train.steps, config.batch_size) == (epochs * (count // batch), batch)
  optimizer, policy = config.optimizer, config.augment.randaugment
  assert (optimizer.learning_rate, optimizer.weight_decay) == (rate, decay)
  assert optimizer.decay_norms and (optimizer.clip_norm, optimizer.momentum) == (5.0, 0.9)
  assert (policy.layers, policy.magnitude) == (layers, magnitude)
  assert config.augment.operations_first and config.schedule.to_dict() == {"name": "cosine"}
  cifar = count == 50_000
  assert (config.augment.flip, config.augment.shift) == ((True, 4) if cifar else (False, 0))
  assert config.augment.cutout == 16 or not cifar


@pytest.mark.parametrize(
  ("arg", "model", "layers", "magnitude", "epochs"),
  [
    ("imagenet", "resnet50", 2, 9, 180),
    ("b5", "efficientnet_b5", 2, 17, 350),
    ("imagenet,b7", "efficientnet_b7", 2, 28, 350),
    ("b8", "efficientnet_b8", 2, 28, 350),
  ],
)
def test_randaugments_imagenet_recipes_are_the_sheets(arg, model, layers, magnitude, epochs):
  config = configuration.load(f"configs/randaugment.py:{arg}")
  configuration.check(config)
  policy = config.augment.randaugment
  assert (config.model.name, policy.layers, policy.magnitude) == (model, layers, magnitude)
  assert config.batch_size == 4096 and policy.operations == "code16"
  if model == "resnet50":
    assert config.train.steps == pytest.approx(1_281_167 * epochs / 4096, rel=1e-4)
  else:
    assert config.train.epochs == epochs


def test_the_steps_of_resnet50_are_those_of_both_official_configs():
  for arg, steps in (("imagenet", 56_304), ("resnet50,batch_size=1024", 225_216)):
    assert configuration.load(f"configs/randaugment.py:{arg}").train.steps == steps


def test_the_schedule_of_resnet50():
  # Ramp over 5 of 90 parts of 56,304 steps, then a tenth at 30, 60 and 80 of them.
  config = configuration.load("configs/randaugment.py:imagenet")
  per = config.optimizer.learning_rate_per_examples
  schedule = training.schedules.create(
    config.schedule,
    learning_rate=training.schedules.scaled(0.1, batch_size=4096, per_examples=per),
    total_steps=config.train.steps,
    steps_per_epoch=1_281_167 / 4096,
  )
  part = 56_304 / 90
  for step, rate in (
    *((1564, 0.8), (3128, 1.6), (30 * part - 1, 1.6), (30 * part, 0.16)),
    *((60 * part - 1, 0.16), (60 * part, 0.016), (80 * part - 0.6, 0.016), (80 * part, 0.0016)),
  ):
    assert float(schedule(round(step))) == pytest.approx(rate, rel=1e-5), step


@pytest.mark.parametrize(
  ("arg", "layers", "magnitudes"),
  [
    ("grid", (1, 2, 3), (2, 6, 10, 14)),
    ("grid,cifar10,wide_resnet_28_2", (3,), (4, 5, 7, 9, 11)),
    ("cifar100,grid", (1, 2), (2, 6, 10, 14)),
    ("svhn_core,grid", (3,), (5, 7, 9, 11)),
    ("svhn,grid", (3,), (5, 7, 9, 11)),
    ("imagenet,grid", (1, 2, 3), (5, 7, 9, 11, 13, 15)),
    ("grid,b5", (2, 3), (8, 11, 14, 17, 21)),
    ("grid,b7", (2, 3), (17, 25, 28, 31)),
  ],
)
def test_the_grid_of_layers_and_magnitudes(arg, layers, magnitudes):
  config = configuration.load(f"configs/randaugment.py:{arg},seed=3")
  members = sweep.members_of(config)
  found = {}
  for name, member in members.items():
    ((seed, run),) = member.configs.items()
    policy = run.augment.randaugment
    found[policy.layers, policy.magnitude] = name
    assert seed == 3 and run.data.split.validation != run.data.split.test
    if "[" in run.data.split.train:
      # What is held out is not trained on.
      held = run.data.split.validation.removeprefix("train[:").removesuffix("]")
      assert run.data.split.train.removesuffix("+extra") == f"train[{held}:]"
  pairs = itertools.product(layers, magnitudes)
  assert found == {(n, m): f"N{n}_M{m}" for n, m in pairs}


def test_baselines_of_randaugment():
  none = configuration.load("configs/randaugment.py:cifar10,policy=none").augment
  assert (none.randaugment.layers, none.cutout, none.shift, none.flip) == (0, 0, 4, True)
  for arg, held in (("digits", "validation"), ("svhn", "train[:5000]"), ("b5", "train[:25022]")):
    config = configuration.load(f"configs/randaugment.py:{arg},policy=learned")
    configuration.check(config)
    assert config.task.name == "learned_operations" and config.augment.randaugment.layers > 1
    more = config.data.unlabelled
    assert (more.source, more.split, more.ratio) == (config.data.source, held, 1.0)
    assert config.data.split.train in ("labelled", "train[5000:]+extra", "train[25022:]")
  for arg, policy in (("svhn_core", "svhn"), ("cifar100", "cifar10"), ("b7", "v0")):
    learned = configuration.load(f"configs/randaugment.py:{arg},policy=autoaugment").augment
    assert (learned.autoaugment.policy, learned.randaugment.layers) == (policy, 0)


@pytest.mark.parametrize(
  ("config", "peak"),
  [
    ("efficientnet.py:b0", 0.128),
    ("mnasnet.py:a1", 0.064),
    ("mixnet.py:s", 0.064),
    ("mobilenetv3.py:large", 0.16),
    ("mobilenetv3.py:large,paper", 0.1),
  ],
)
def test_peak_learning_rates_are_the_sheets(config, peak):
  config = configuration.load(f"configs/{config}")
  rate, per = config.optimizer.learning_rate, config.optimizer.learning_rate_per_examples
  found = training.schedules.scaled(rate, batch_size=config.batch_size, per_examples=per)
  assert found == pytest.approx(peak)


@pytest.mark.parametrize(
  ("size", "ratio", "epochs", "decay", "magnitude"),
  # The sheet's table of students: unlabelled ratio, 350 epochs times train_ratio, RandAugment's M.
  [
    ("b0", 1, 700, 4.8, None),
    ("b1", 3, 700, 4.8, None),
    ("b2", 3, 700, 4.8, 6),
    ("b3", 3, 700, 4.8, 12),
    ("b4", 3, 700, 4.8, 15),
    ("b5", 3, 350, 2.4, 18),
    ("b6", 3, 350, 2.4, 24),
    ("b7", 3, 350, 2.4, 27),
  ],
)
def test_noisy_students_by_size(size, ratio, epochs, decay, magnitude):
  config = configuration.load(f"configs/noisy_student.py:{size},unlabelled=pictures:/data")
  made = stages.configs(config)
  assert list(made) == ["teacher", "filter", "student_1"]
  student = made["student_1"]
  assert student.model.name == made["teacher"].model.name == f"efficientnet_{size}"
  assert student.data.image_size == models.entry(student.model.name).image_size
  assert (student.data.unlabelled.ratio, student.train.epochs) == (ratio, epochs)
  assert student.schedule.decay_epochs == decay and made["teacher"].train.epochs == 350
  noise = student.augment.randaugment
  assert (noise.magnitude if noise.layers else None) == magnitude and noise.layers in (0, 2)
  assert made["filter"].model.name == "efficientnet_b0"
  labels = config.pipeline.labels
  assert (labels.per_class, labels.min_confidence, labels.select) == (130_000, 0.3, "first")


def test_the_svhn_recipe():
  config = configuration.load("configs/noisy_student.py:svhn")
  made = stages.configs(config)
  assert list(made) == ["teacher", "student_1"]
  for stage in made.values():
    assert (stage.batch_size, stage.train.steps, stage.optimizer.weight_decay) == (
      128,
      109_474,
      1e-4,
    )
    assert (stage.augment.flip, stage.augment.shift, stage.augment.shift_mode) == (
      *(False, 4, "reflect"),
    )
    assert (stage.augment.cutout, stage.augment.cutout_fill) == (16, 128)
    assert stage.augment.randaugment.to_dict() == {
      **{"layers": 2, "magnitude": 5.0, "operations": "code16"},
      **{"cutout_const": 4.0, "translate_const": 4.0},
    }
  assert configuration.step_batch(made["student_1"]) == (128, 640)
  assert made["student_1"].model.small_images
  labels = config.pipeline.labels
  assert labels.split == "extra" and labels.use_all and labels.min_confidence == 0
  # 73,257 less the 4,000 held out.
  assert made["teacher"].data.split.train == "train[4000:]"


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("teacher=l2", "teacher='l2' goes with a student's size, b0 to b7"),
    ("b9", "argument='b9' is not a word.*Nearest: 'b"),
  ],
)
def test_mistakes_in_arguments_of_noisy_student(arg, message):
  with pytest.raises(errors.UserError, match=message):
    configuration.load(f"configs/noisy_student.py:{arg}")


# name: classes, training pictures, test pictures, figure (the sheet's table; pets: of the set).
SETS = {
  "cifar10": (10, 50_000, 10_000, "top1"),
  "cifar100": (100, 50_000, 10_000, "top1"),
  "birdsnap": (500, 47_386, 2_443, "top1"),
  "cars": (196, 8_144, 8_041, "top1"),
  "flowers": (102, 2_040, 6_149, "mean_per_class"),
  "aircraft": (100, 6_667, 3_333, "mean_per_class"),
  "pets": (37, 3_680, 3_669, "mean_per_class"),
  "food": (101, 75_750, 25_250, "top1"),
}


@pytest.mark.parametrize("name", SETS)
def test_transfer_sets(name):
  found = recipes.TRANSFER[name]
  assert (found.classes, found.train, found.test, found.metric) == SETS[name]
  folder = "" if found.tfds else ",folder=/data"
  config = configuration.load(f"configs/efficientnet.py:b3,transfer={name}{folder}")
  configuration.check(config)
  assert config.weights == "tf_efficientnet_b3.in1k" and config.new_head
  assert (config.model.name, config.data.image_size) == ("efficientnet_b3", 300)
  assert config.data.source == (found.tfds or "folder:/data")
  assert config.checkpoint.best_metric == SETS[name][3]
  # Kornblith et al.: momentum of the moments max(1 - 10 / steps per epoch, 0.9).
  assert config.model.momentum == pytest.approx(max(1 - 2560 / SETS[name][1], 0.9))
  assert (config.train.steps, config.batch_size) == (20_000, 256)


def test_the_other_published_fine_tuning():
  for name, steps in (("cars", 10_000), ("food", 10_000)):
    config = configuration.load(f"configs/mixnet.py:l,transfer={name},recipe=google")
    configuration.check(config)
    assert (config.train.steps, config.batch_size, config.ema.decay) == (steps, 512, 0.9996)
    assert config.weights == "tf_mixnet_l.in1k" and config.model.drop_path_rate == 0.0
  config = configuration.load("configs/efficientnet.py:b0,transfer=cars,recipe=google")
  assert config.model.drop_path_rate == 0.2


def test_fine_tuning_on_a_folder():
  config = configuration.load("configs/finetune.py:folder=/data")
  configuration.check(config)
  assert config.data.source == "folder:/data" and config.data.options.hold_out == 15
  assert config.weights == "tf_efficientnet_b0.ns_jft_in1k" and config.new_head
  assert config.model.name == "efficientnet_b0" and config.model.frozen_blocks == 0
  probe = "folder=/data,weights=tf_mixnet_s.in1k:a.npz,linear_probe,epochs=3"
  config = configuration.load(f"configs/finetune.py:{probe}")
  assert (config.model.name, config.model.frozen_blocks) == ("mixnet_s", -1)
  assert (config.model.dropout_rate, config.train.epochs) == (0.0, 3.0)
  # From scratch on 100 digits: 20 epochs at batch 32.
  assert training.prepare(configuration.load("configs/finetune.py")).total_steps == 62


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ("efficientnet.py:transfer=car", "transfer='car' is not a data set.*Nearest: 'cars'"),
    ("efficientnet.py:transfer=cars,recipe=googel", "recipe='googel' .*Nearest: 'google'"),
    ("mixnet.py:transfer=aircraft", "'aircraft': TensorFlow Datasets has no .*folder=PATH"),
    ("mnasnet.py:b1_140,transfer=cars", "no weights of this network were.*weights=NAME:SOURCE"),
    ("mobilenetv3.py:weights=run:x", "weights='run:x' goes with transfer=SET.*finetune"),
    ("mnasnet.py:a1,folder=x", "folder='x' goes with transfer=SET"),
    ("mnasnet.py:a4", "argument='a4' is not a word"),
    ("randaugment.py:cifar", "argument='cifar' is not a word.*Nearest: 'cifar10"),
    ("randaugment.py:cifar10,resnet50", "'resnet50' does not go with 'cifar10', which takes one"),
    ("randaugment.py:digits,b5", "'b5' does not go with 'digits', which has a network of its own"),
    ("randaugment.py:digit_scenes,r200", "'r200' does not go with 'digit_scenes', which has a"),
    ("randaugment.py:policy=random", "policy='random' is not a policy.*Nearest: 'randaugment'"),
    ("randaugment.py:grid,policy=none", "policy='none' has no N and M"),
    ("saccader.py:imagenet,bagnet=21", "argument bagnet=21 is not a size"),
    ("saccader.py:bagnet=33", "bagnet=33 goes with imagenet"),
    ("saccader.py:classifier=resnet50", "classifier='resnet50' goes with the word patches"),
    ("finetune.py:linear_probe", "linear_probe needs a trained network: weights=NAME:SOURCE"),
    ("finetune.py:weights=mixnet_q", "config.weights: weights name='mixnet_q' .*'mixnet_"),
    ("finetune.py:weights=run:/no/where", "config.weights: --workdir=/no/where holds no run"),
  ],
)
def test_mistakes_in_arguments(config, message):
  with pytest.raises(errors.UserError, match=message):
    configuration.load(f"configs/{config}")


@pytest.mark.parametrize(
  "name",
  [
    *("efficientnet.py", "mixnet.py", "mnasnet.py", "mobilenetv3.py", "noisy_student.py"),
    *("efficientdet.py", "mnasfpn.py", "randaugment.py", "saccader.py", "spinenet.py"),
    *("mobilenetv3.py:digit_scenes", "mobilenetv3.py:digit_scenes_seg", "spinenet.py:mask_rcnn"),
    *("mixnet.py:digit_scenes", "mnasnet.py:digit_scenes", "randaugment.py:digit_scenes"),
  ],
)
def test_embedded_configs_are_ready_to_train(name):
  config = configuration.load(name)
  configuration.check(config)
  if not config.pipeline.name:
    ready = training.prepare(config)
    assert ready.total_steps == config.train.steps
    assert set(ready.splits) == {"validation", "test"}


@pytest.mark.parametrize("config", dump.CONFIGS)
def test_configs_are_locked(config):
  # An unknown key that a config sets by mistake would otherwise be there in silence.
  name, _, arg = config.partition(":")
  module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
  assert module.get_config(arg or None).is_locked


def test_sets_arguments():
  assert configuration.load("configs/noisy_student.py:seed=7").seed == 7
  assert configuration.load("configs/efficientnet.py:b3,batch_size=64").batch_size == 64
  with pytest.raises(errors.UserError, match="argument='b33' is not a word.*Nearest: 'b3'"):
    configuration.load("configs/efficientnet.py:b33")


@pytest.mark.parametrize(
  ("arg", "step", "width", "size"), [("grid", 10, 0.5, 32), ("grid,b0,step=0.05", 5, 1.0, 224)]
)
def test_the_scaling_grid_has_every_candidate(arg, step, width, size):
  config = configuration.load(f"configs/efficientnet.py:{arg},seed=3")
  members = sweep.members_of(config)
  expected = {}
  for depth, wide, sharp in itertools.product(range(100, 201, step), repeat=3):
    if abs(depth * wide**2 * sharp**2 / 100**5 - 2) < 0.1 - 1e-9:
      expected[f"depth{depth}_width{wide}_size{sharp}"] = (depth, wide, sharp)
  assert members.keys() == expected.keys()
  assert len(members) == {10: 20, 5: 108}[step]
  for name, (depth, wide, sharp) in expected.items():
    (seed, run), *others = members[name].configs.items()
    assert (seed, run.seed, others) == (3, 3, [])
    assert run.model.depth == pytest.approx(depth / 100)
    assert run.model.width == pytest.approx(width * wide / 100)
    assert abs(run.data.image_size - size * sharp / 100) <= 0.5
    assert run.train.to_dict() == config.train.to_dict()
    assert run.data.source == config.data.source


def test_the_papers_base_is_a_candidate_of_the_fine_grid():
  config = configuration.load("configs/efficientnet.py:grid,b0,step=0.05")
  run = config.pipeline.runs["depth120_width110_size115"]
  assert (run.model.depth, run.data.image_size) == (1.2, 258)
  assert run.model.width == pytest.approx(1.1)
