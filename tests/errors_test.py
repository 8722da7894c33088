"""Every mistake a user can make gives one message, status 2, before anything is compiled."""

import json
import os

import jax
import pytest

from effnets import configuration, errors, main, workdirs
from effnets.training import assembly

CONFIG = "--config=configs/efficientnet.py"
STUDENT = "--config=configs/noisy_student.py"
POLICY = "--config.augment.randaugment."
LAYERS = f"{POLICY}layers=2"


pytestmark = pytest.mark.usefixtures("process_state")


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
  """Returns a function from arguments to (status, the one line of the error output)."""
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
  monkeypatch.setattr(assembly.step, "lower_update", lambda *_: pytest.fail("compiled"))

  def run(*arguments):
    workdir = [] if any("workdir" in a for a in arguments) else [f"--workdir={tmp_path / 'run'}"]
    status = main.run(["main", *arguments, *workdir])
    out, err = capsys.readouterr()
    assert out == ""
    return status, err

  return run


def refused(outcome):
  """Returns the message of a call that has to fail well."""
  status, err = outcome
  assert status == 2
  assert err.startswith("Error: ") and err.endswith("\n") and err.count("\n") == 1
  assert "Traceback" not in err
  return err.removeprefix("Error: ").strip()


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    # The call.
    (["positional", CONFIG], ["'positional' is no flag", "--config.KEY=VALUE"]),
    ([], ["--config=FILE[:ARG] is missing", "configs/noisy_student.py"]),
    ([CONFIG, "--workdir="], ["--workdir= is empty"]),
    ([CONFIG, "--workdirr=x"], ["workdirr", "Did you mean: workdir?"]),
    ([CONFIG, "--mode=robustnes"], ["--mode='robustnes'", "Nearest: 'robustness'"]),
    ([CONFIG, "--config.robustness.release=256"], ["robustness.release=256 should be 224 or 299"]),
    ([CONFIG, "--config.robustness.foldr=x"], ["Nearest: config.robustness.folder"]),
    ([CONFIG, "--config.data.source=corrupted:"], ["'corrupted:' lacks a source"]),
    ([CONFIG, "--mode=evalute"], ["--mode='evalute'", "Nearest: 'evaluate'"]),
    ([CONFIG, "--config.seed"], ["--config.seed has no value", "--config.seed=VALUE"]),
    # The config file and its argument.
    (["--config=configs/noisystudent.py"], ["noisystudent.py'", "'configs/noisy_student.py'"]),
    (["--config=elsewhere/efficientnet.py"], ["elsewhere/efficientnet.py' is not a file"]),
    (["--config=README.md"], ["README.md is no Python file"]),
    ([CONFIG + ":b9"], ["argument='b9'", "Nearest: 'b8'"]),
    ([CONFIG + ":imagnet"], ["argument='imagnet'", "Nearest: 'imagenet'"]),
    ([CONFIG + ":sed=1"], ["argument='sed'", "Nearest: 'seed'"]),
    ([CONFIG + ":seed=one"], ["argument seed='one'", "type int"]),
    ([STUDENT + ":imagenet"], ["pipeline.labels.source is empty", "folder:PATH"]),
    # Weights.
    ([CONFIG, "--config.weights=mixnet_x"], ["config.weights: ", "Nearest: 'mixnet_xl'"]),
    ([CONFIG, "--config.weights=run:"], ["config.weights='run:'", "'run:DIR'"]),
    ([CONFIG, "--config.weights=run:nowhere"], ["config.weights: ", "nowhere holds no run"]),
    ([CONFIG, "--config.weights=README.md"], ["config.weights='README.md'", "'NAME:README.md'"]),
    ([CONFIG, "--config.weights=mixnet_s:x.npz"], ["config.weights: source='x.npz'", "not exist"]),
    (["--mode=evaluate", "--config.weights=mixnet_xxl"], ["no weights of this network", ":SOURCE"]),
    (["--mode=evaluate", CONFIG], ["does not exist; train there first", "--config.weights="]),
    ([CONFIG, "--config.data.resize=crp"], ["config.data.resize='crp'", "Nearest: 'crop'"]),
    ([CONFIG, "--config.data.crop_fraction=2"], ["crop_fraction=2.0 should be from 0", "to 1"]),
    ([CONFIG, "--config.data.interpolation=cubic"], ["interpolation='cubic'", "'bicubic'"]),
    ([CONFIG, "--config.data.std=(1,0,1)"], ["config.data.std=(1, 0, 1)", "three numbers"]),
    ([CONFIG, "--config.data.mean=(1,1)"], ["config.data.mean=(1, 1)", "three numbers"]),
    # Keys.
    ([CONFIG, "--config.batchsize=3"], ["config.batchsize='3'", "Nearest: config.batch_size"]),
    ([CONFIG, "--config.train.stps=3"], ["config.train.stps='3'", "Nearest: config.train.steps"]),
    ([CONFIG, "--config.learning_rate=1"], ["Nearest: config.optimizer.learning_rate."]),
    ([CONFIG, "--config.data=x"], ["config.data='x'", "section", "--config.data."]),
    ([CONFIG, "--config.optimizer=adam"], ["config.optimizer='adam'", "--config.optimizer.name="]),
    ([CONFIG, "--config.augment.flp=True"], ["config.augment.flp=True", "config.augment.flip"]),
    ([CONFIG, f"{POLICY}increasin=True"], ["randaugment.increasin=True", "increasing"]),
    ([CONFIG, f"{POLICY}magnitude=41"], ["randaugment.magnitude=41", "[0, 31]"]),
    ([CONFIG, LAYERS, f"{POLICY}layers=11"], ["randaugment.layers=11", "[1, 10]", "Nearest: 10"]),
    (
      [CONFIG, "--config.augment.autoaugment.policy=cifar"],
      ["config.augment.autoaugment.policy='cifar'", "Nearest: 'cifar10'"],
    ),
    (
      [CONFIG, LAYERS, "--config.augment.autoaugment.policy=v0"],
      ["both given", "autoaugment.policy=''", "randaugment.layers=0"],
    ),
    ([CONFIG, "--config.augment.autoaugment.fill=300"], ["autoaugment.fill=300", "[0, 255]"]),
    ([CONFIG, "--config.augment.cutout=-2"], ["config.augment.cutout=-2", "[0, 1024]"]),
    (
      [CONFIG, "--config.augment.erasing.probability=1.5"],
      ["config.augment.erasing.probability=1.5", "[0, 1]"],
    ),
    (
      [CONFIG, "--config.augment.erasing.area=(0.4,0.1)"],
      ["config.augment.erasing.area=(0.4, 0.1)"],
    ),
    ([CONFIG, "--config.task.cutmix=-1"], ["config.task.cutmix=-1.0", "at least 0"]),
    ([CONFIG, "--config.task.cutmix_probability=2"], ["cutmix_probability=2.0", "from 0 to 1"]),
    ([CONFIG, "--config.model.widht=2"], ["config.model.widht=2", "Nearest: 'width'"]),
    ([CONFIG, "--config.optimizer.decy=.9"], ["config.optimizer.decy=0.9", "Nearest: decay"]),
    ([CONFIG, "--config.schedule.warmup=3"], ["config.schedule.warmup=3", "warmup_steps"]),
    ([CONFIG, "--config.data.options.label=10"], ["options='label'", "'labels'"]),
    ([STUDENT, "--config.pipeline.techer.seed=1"], ["pipeline.techer.seed", "is not a setting"]),
    (
      [STUDENT, "--config.pipeline.teacher.model.dropout=0.1"],
      ["stage teacher: config.model.dropout=0.1", "Nearest: 'dropout_rate'"],
    ),
    # Types.
    ([CONFIG, "--config.batch_size=many"], ["config.batch_size='many'", "int", "64"]),
    ([CONFIG, "--config.batch_size=64.0"], ["config.batch_size='64.0'", "int"]),
    ([CONFIG, "--config.ema.decay=x"], ["config.ema.decay='x'", "float", "0.99"]),
    ([CONFIG, "--config.tensorboard=maybe"], ["config.tensorboard='maybe'", "bool"]),
    ([CONFIG, "--config.sharding.rules=x"], ["config.sharding.rules='x'", "tuple"]),
    ([CONFIG, "--config.sharding.rules=('x',)"], ["config.sharding.rules: 'x'", "pair"]),
    ([CONFIG, "--config.sharding.rules=(('(','fsdp'),)"], ["'('", "regular expression"]),
    # Names.
    ([CONFIG, "--config.model.name=efficientnet_tny"], ["tny'", "Nearest: 'efficientnet_tiny'"]),
    ([CONFIG, "--config.data.source=digit"], ["data.source='digit'", "Nearest: 'digits'"]),
    (
      [CONFIG, "--config.data.split.train=trian"],
      ["config.data.split.train='trian'", "Nearest: 'train'"],
    ),
    ([CONFIG, "--config.data.split.test=tset"], ["config.data.split.test='tset'", "'test'"]),
    ([CONFIG, "--config.optimizer.name=rmsprob"], ["'rmsprob'", "Nearest: 'rmsprop'"]),
    ([CONFIG, "--config.schedule.name=cosin"], ["schedule.name='cosin'", "Nearest: 'cosine'"]),
    ([CONFIG, "--config.task.name=clasification"], ["Nearest: 'classification'"]),
    ([CONFIG, "--config.pipeline.name=student"], ["pipeline.name='student'", "'noisy_student'"]),
    ([CONFIG, "--config.execution=pmap"], ["config.execution='pmap'", "'shard_map'"]),
    ([CONFIG, "--config.batch_norm.group=locl"], ["batch_norm.group='locl'", "'local'"]),
    ([CONFIG, "--config.model.padding=sym"], ["config.model.padding='sym'", "'SYMMETRIC'"]),
    ([CONFIG, "--config.model.dtype=float16"], ["model.dtype='float16'", "'bfloat16'"]),
    ([CONFIG, "--config.model.remat=blocks"], ["model.remat='blocks'", "'block'"]),
    ([CONFIG, "--config.checkpoint.best_mode=mx"], ["best_mode='mx'", "'max'"]),
    ([CONFIG, LAYERS, f"{POLICY}operations=code61"], ["operations='code61'", "'code16'"]),
    ([CONFIG, LAYERS, f"{POLICY}magnitude=40"], ["randaugment.magnitude=40", "[0, 31]"]),
    # Exports.
    ([CONFIG, "--config.export.format=onx"], ["export.format='onx'", "Nearest: 'onnx'"]),
    ([CONFIG, "--config.export.batch_size=0"], ["config.export.batch_size=0", "at least 1"]),
    ([CONFIG, "--config.export.calibration_examples=0"], ["calibration_examples=0", "least 1"]),
    ([CONFIG, "--config.export.accuracy_examples=-1"], ["accuracy_examples=-1", "at least 0"]),
    (
      [CONFIG, "--mode=export", "--config.export.int8=True"],
      ["config.export.int8=True is for tflite", "in stablehlo", "--config.export.format=tflite"],
    ),
    (
      [CONFIG, "--mode=export", "--config.export.format=onnx", "--config.export.batch_size=4"],
      ["config.export.batch_size=4 is for tflite", "onnx takes batches of any size"],
    ),
    ([CONFIG, "--mode=exprot"], ["--mode='exprot'", "Nearest: 'export'"]),
    # Mesh and batches; there are eight devices.
    ([CONFIG, "--config.mesh.data=3"], ["config.mesh=", "3 device(s), there are 8"]),
    ([CONFIG, "--config.mesh.data=0"], ["config.mesh=", "positive"]),
    ([CONFIG, "--config.mesh.fsdp=3"], ["config.mesh=", "3 device(s) or a multiple"]),
    ([CONFIG, "--config.batch_size=60"], ["config.batch_size=60", "nearest: 56 or 64"]),
    ([CONFIG, "--config.eval_batch_size=7"], ["config.eval_batch_size=7", "nearest: 8"]),
    ([CONFIG, "--config.accumulate=3"], ["config.batch_size=64", "3 accumulation steps"]),
    # Numbers.
    ([CONFIG, "--config.batch_size=0"], ["config.batch_size=0 should be at least 1"]),
    ([CONFIG, "--config.log_every_steps=0"], ["config.log_every_steps=0 should be at least 1"]),
    ([CONFIG, "--config.train.steps=-3"], ["config.train.steps=-3 should be at least 0"]),
    ([CONFIG, "--config.train.steps=0"], ["config.train.steps and config.train.epochs"]),
    ([CONFIG, "--config.train.epochs=2"], ["config.train.epochs=2.0", "both given"]),
    ([CONFIG, "--config.optimizer.learning_rate=-1"], ["config.optimizer.learning_rate=-1.0"]),
    ([CONFIG, "--config.optimizer.learning_rate=nan"], ["optimizer.learning_rate=nan", "finite"]),
    ([CONFIG, "--config.optimizer.decay=1.5"], ["config.optimizer.decay=1.5", "[0, 1)"]),
    ([CONFIG, "--config.optimizer.clip_norm=0"], ["config.optimizer.clip_norm=0", "positive"]),
    ([CONFIG, "--config.seed=-1"], ["config.seed=-1 should be from 0 to 4294967295"]),
    ([CONFIG, "--config.seed=4294967296"], ["config.seed=4294967296 should be from 0"]),
    ([CONFIG + ":seed=4294967296"], ["config.seed=4294967296 should be from 0"]),
    ([CONFIG, "--config.ema.decay=1"], ["config.ema.decay=1.0", "below 1"]),
    ([CONFIG, "--config.data.threads=0"], ["config.data.threads=0 should be at least 1"]),
    ([CONFIG, "--config.data.image_size=0"], ["config.data.image_size=0 should be at least 1"]),
    ([CONFIG, "--config.task.mixup=-1"], ["config.task.mixup=-1.0"]),
    ([CONFIG, "--config.task.label_smoothing=1"], ["config.task.label_smoothing=1.0"]),
    ([CONFIG, "--config.model.dropout_rate=1"], ["config.model.dropout_rate=1.0"]),
    ([CONFIG, "--config.few_shot.shots=(0,)"], ["few_shot.shots=(0,) should be whole numbers"]),
    ([CONFIG, "--config.few_shot.shots=5"], ["few_shot.shots='5' is not of type tuple", "(1, 5, "]),
    ([CONFIG, "--config.few_shot.draws=0"], ["few_shot.draws=0 should be at least 1"]),
    ([CONFIG, "--config.few_shot.l2=(0,)"], ["few_shot.l2=(0,) should be numbers above 0"]),
    ([CONFIG, "--config.optimizer.undecayed=('(',)"], ["optimizer.undecayed: '('", "regular"]),
    ([CONFIG, "--config.checkpoint.keep=0"], ["config.checkpoint.keep=0 should be at least 1"]),
    ([CONFIG, "--config.evaluation.every_percent=0"], ["config.evaluation.every_percent"]),
    ([CONFIG, "--config.checkpoint.every_percent=0"], ["config.checkpoint.every_percent"]),
    ([CONFIG, "--config.evaluation.every_percent=200"], ["evaluation.every_percent=200.0"]),
    ([CONFIG, "--config.augment.shift=-1"], ["config.augment.shift=-1"]),
    ([CONFIG, "--config.processes.coordinator=a:1"], ["config.processes.count"]),
    ([STUDENT, "--config.pipeline.labels.kind=sof"], ["labels.kind='sof'", "Nearest: 'soft'"]),
    ([STUDENT, "--config.pipeline.labels.per_class=0"], ["labels.per_class=0 is below 1"]),
    ([STUDENT, "--config.pipeline.labels.min_confidence=2"], ["min_confidence=2.0"]),
    (
      [STUDENT, "--config.pipeline.teacher.train.steps=-1"],
      ["stage teacher: config.train.steps=-1"],
    ),
    # Data on disk.
    ([CONFIG, "--config.data.source=folder:/no/where"], ["no folder /no/where", "CLASS/*.jpg"]),
    ([CONFIG, "--config.data.source=records:/no/where"], ["/no/where", "records.json"]),
    ([CONFIG, "--config.data.source=folder:"], ["'folder:' lacks a path"]),
    ([CONFIG, "--config.data.source=imagenet2012"], ["'imagenet2012' is not prepared"]),
  ],
)
def test_a_mistake_is_one_message_and_status_2(call, tmp_path, arguments, parts):
  message = refused(call(*arguments))
  for part in parts:
    assert part in message, message
  # Nothing in the way of the corrected command.
  workdirs.claim(tmp_path / "run", configuration.base())


def test_an_empty_folder(call, tmp_path):
  for split in ("train", "validation", "test"):
    (tmp_path / "pictures" / split / "cat").mkdir(parents=True)
  message = refused(call(CONFIG, f"--config.data.source=folder:{tmp_path / 'pictures'}"))
  assert "config.data.source='folder:" in message and "no images in" in message


@pytest.mark.parametrize(
  ("code", "parts"),
  [
    ("def get_config(:\n  pass\n", ["my.py, line 1", "SyntaxError"]),
    ("def get_config(arg=None):\n  return {}['x']\n", ["my.py, line 2", "KeyError: 'x'"]),
    ("import nothing_of_the_kind\n", ["my.py, line 1", "ModuleNotFoundError"]),
    ("x = 1\n", ["my.py", "no function get_config"]),
    ("def get_config(arg=None):\n  pass\n", ["my.py", "returns NoneType, not a ConfigDict"]),
    (
      "from effnets import configuration as c\n\ndef get_config(arg=None):\n"
      "  config = c.base()\n  config.batch_size = 'a'\n  return config\n",
      ["my.py, line 5", "TypeError", "batch_size"],
    ),
    (
      "from effnets import configuration as c\n\ndef get_config(arg=None):\n"
      "  config = c.base().lock()\n  config.bach_size = 3\n  return config\n",
      ["my.py, line 5", "bach_size", "batch_size"],
    ),
    (
      "from effnets import configuration as c\n\ndef get_config(arg=None):\n"
      "  config = c.base()\n  del config.ema\n  return config\n",
      ["my.py", "config.ema.decay is missing"],
    ),
  ],
)
def test_a_mistake_inside_a_config_file(call, tmp_path, code, parts):
  (tmp_path / "my.py").write_text(code)
  message = refused(call(f"--config={tmp_path / 'my.py'}"))
  for part in parts:
    assert part in message, message
  assert sorted(p.name for p in tmp_path.iterdir()) == ["my.py"]


def test_a_workdir_that_cannot_be_written(call, tmp_path):
  (tmp_path / "file").write_text("")
  message = refused(call(CONFIG, f"--workdir={tmp_path / 'file' / 'run'}"))
  assert "--workdir=" in message and "cannot be written" in message


def test_a_read_only_workdir(call, tmp_path):
  (tmp_path / "closed").mkdir(mode=0o500)
  # Root may write everywhere, but no one into what the kernel shows as files.
  closed = "/proc/effnets" if os.getuid() == 0 else tmp_path / "closed"
  message = refused(call(CONFIG, f"--workdir={closed}"))
  assert f"--workdir={closed} cannot be written: " in message


@pytest.mark.parametrize("config", [CONFIG, STUDENT])
def test_a_foreign_workdir_is_left_alone(call, tmp_path, config):
  (tmp_path / "thesis.tex").write_text("years of work")
  message = refused(call(config, f"--workdir={tmp_path}"))
  assert "not empty and holds no run" in message and "thesis.tex" in message
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_the_workdir_of_another_config(call, tmp_path, mode):
  run = tmp_path / "run"
  workdirs.claim(run, configuration.load("configs/efficientnet.py"))
  (run / "checkpoints" / "4").mkdir(parents=True)
  message = refused(call(CONFIG, "--config.optimizer.learning_rate=0.5", f"--mode={mode}"))
  assert "another config" in message
  assert "config.optimizer.learning_rate: 0.016 there, 0.5 now" in message
  assert json.loads((run / "config.json").read_text())["optimizer"]["learning_rate"] == 0.016


@pytest.mark.parametrize("config", [CONFIG, STUDENT])
def test_evaluating_where_there_is_no_run(call, tmp_path, config):
  assert "does not exist" in refused(call(config, "--mode=evaluate"))
  (tmp_path / "run").mkdir()
  assert "holds no run of effnets" in refused(call(config, "--mode=evaluate"))
  assert list((tmp_path / "run").iterdir()) == []
  name = config.removeprefix("--config=")
  workdirs.claim(tmp_path / "run", configuration.load(name))
  assert "holds no checkpoints; train there first" in refused(call(config, "--mode=evaluate"))


def test_evaluating_takes_the_workdirs_own_config(call, tmp_path):
  workdirs.claim(tmp_path / "run", configuration.load("configs/noisy_student.py"))
  workdir = f"--workdir={tmp_path / 'run'}"
  assert "--config=FILE[:ARG] is missing" in refused(call(workdir))
  assert "holds no run of effnets" in refused(call(f"--workdir={tmp_path}", "--mode=evaluate"))
  assert "holds no checkpoints; train there first" in refused(call(workdir, "--mode=evaluate"))


def test_evaluating_an_unknown_checkpoint(call):
  message = refused(call(CONFIG, "--mode=evaluate", "--config.evaluation.checkpoint=bst"))
  assert "config.evaluation.checkpoint='bst'" in message and "Nearest: 'best'" in message


def test_unknown_names_the_nearest():
  error = errors.unknown("config.x", "hot", "a name", ["hat", "far"])
  assert str(error) == "config.x='hot' is not a name. Nearest: 'hat'. Valid: 'far', 'hat'."
  error = errors.unknown("config.x", "zzz", "a name", ["hat", "far"], where="the list")
  assert str(error) == "config.x='zzz' is not a name. All: the list."


def test_context_says_where():
  with pytest.raises(errors.UserError, match="^stage a: wrong$"):
    with errors.context("stage a"):
      raise errors.UserError("wrong")
