"""`--mode=plan`: figures that can be counted by hand, and the program that really runs."""

import json
import re

import jax
import pytest

from effnets import commands, configuration, errors, models, pipelines, training
from effnets.commands.plan import recipe, roofline, searched
from effnets.parallel import programs, slices
from effnets.search import planning
from effnets.training import assembly
from tests.training import tiny

pytestmark = pytest.mark.usefixtures("process_state")


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def started():
  """JAX with the tests' own number of devices, which a plan for others would set in a fresh one."""
  jax.devices()


def _config(**changes):
  config = tiny.get_config()
  config.batch_norm.group = "local"
  config.plan.topology = "cpu:8"
  for key, value in changes.items():
    config.plan[key] = value
  return config


def _plan(config, workdir):
  commands.plan(config, str(workdir))
  return json.loads((workdir / "plan.json").read_text())["plans"]


def test_a_plan_of_the_program_that_runs(tmp_path, monkeypatch, capsys):
  config = _config()
  (found,) = _plan(config, tmp_path / "plan")
  ran = []
  real = assembly.Program.lower

  class Spy:
    def __init__(self, lowered):
      self._lowered = lowered

    def compile(self):
      ran.append(self._lowered.compile())
      return ran[0]

  monkeypatch.setattr(assembly.Program, "lower", lambda self, *args: Spy(real(self, *args)))
  training.train(config, tmp_path / "run")
  assert found["program"] == programs.fingerprint(ran[0].as_text())
  # 16 images a step of 8 devices; the parameters as registered, four bytes each, on every device.
  entry = training.prepare(config).task.module
  assert found["batch"]["per_chip"] == 2 and found["steps"] == 12 and found["fits"]
  leaves = jax.tree.leaves(training.program(config, training.prepare(config)).abstract.params)
  weights = sum(leaf.size for leaf in leaves)
  memory = found["memory_per_chip"]
  assert memory["parameters"] == 4 * weights and entry.num_classes == 10
  # RMSProp with momentum keeps two more arrays of every weight, and counters.
  assert 0 <= memory["optimizer"] - 2 * 4 * weights < 64
  assert memory["average"] == memory["parameters"] + memory["moments"]
  # An image, label, position and weight, of two examples.
  assert memory["input"] == 2 * (32 * 32 * 3 + 4 + 8 + 4)
  shown = {k: v for k, v in memory.items() if k != "total"}
  assert memory["total"] == sum(shown.values())
  # Data parallelism with local batch norm: gradients and moments, and nothing else.
  assert {k: v["count"] for k, v in found["collectives"].items()} == {"all-reduce": 1}
  assert "fits" in capsys.readouterr().out
  # One array of each kernel, however many taps it has; and loss, metrics and their counts.
  (message,) = re.findall(r"= \((.*?)\) all-reduce\(", ran[0].as_text())
  moments = jax.tree.leaves(training.program(config, training.prepare(config)).abstract.model_state)
  assert message.count("f32[") <= len(leaves) + len(moments) + METRICS


METRICS = 4
# The compiler's own limit of arrays in a message.
ARRAYS = 256


@pytest.mark.parametrize("name, messages", [("efficientnet_b0", 2), ("efficientnet_b4", 3)])
def test_the_sum_over_devices_is_few_messages(name, messages):
  # Of what a step sums, see above.
  variables = models.abstract(models.create(name), 32)
  assert len(jax.tree.leaves(variables)) + METRICS <= messages * ARRAYS


def test_hours_follow_from_the_roofline():
  facts = programs.Facts(True, flops=197e12 * 0.1, traffic=819e9 * 0.2)
  roof = roofline(facts, slices.CHIPS["v5e"], images=64)
  assert roof["bound"] == "memory" and roof["seconds_per_step"] == pytest.approx(0.2)
  assert roof["images_per_second_per_chip"] == pytest.approx(320)
  # Two devices on a chip share its peak.
  double = roofline(facts, slices.CHIPS["v5e"], images=64, devices=2)
  assert double["seconds_per_step"] == pytest.approx(0.4)
  hours = recipe(36_000, 0.2, 16, 0.5)
  assert hours == {"fraction": 0.5, "hours": pytest.approx(4.0), "chip_hours": pytest.approx(64.0)}


def test_every_stage_of_a_pipeline_has_its_step(tmp_path, monkeypatch):
  config = configuration.load("configs/noisy_student.py")
  assert list(pipelines.planned(config)) == [
    "teacher",
    "student_1",
    "student_2",
    "no_noise",
    "no_unlabelled",
  ]
  seen = {}

  def facts(lowered, where, **_):
    seen[len(seen)] = lowered
    return programs.Facts(True, program=str(len(seen)))

  monkeypatch.setattr(programs, "inspect", facts)
  with config.unlocked():
    config.plan.update({"topology": "cpu:8", "stage": "student_1"})
  (found,) = _plan(config, tmp_path)
  # Three unlabelled examples for each of 32, which carry the teacher's probabilities.
  assert found["stage"] == "student_1"
  assert found["batch"] == {"labelled": 32, "unlabelled": 96, "per_chip": 16, "accumulate": 1}
  assert any("probabilities" in name for name, _ in _arguments(seen[0]))


def _uncompiled(name, workdir, monkeypatch):
  """Returns the plan of a config of one step, which is traced and not compiled."""
  config = configuration.load(name)
  with config.unlocked():
    config.plan.topology = "cpu:8"
  monkeypatch.setattr(programs, "inspect", lambda lowered, where, **_: programs.Facts(True))
  (found,) = _plan(config, workdir)
  return found


def test_a_search_is_as_many_trainings_as_it_has_children(tmp_path, monkeypatch, capsys):
  found = _uncompiled("configs/search_mnasnet.py:trials=12", tmp_path, monkeypatch)
  assert (found["model"], found["steps"]) == ("searched", 100)
  # How long a CPU takes is not known.
  assert found["search"] == {"children": 12} and "12 children" in capsys.readouterr().out
  # 8,000 of MnasNet's took 64 devices four and a half days, 0.864 hours each.
  one = {"fraction": 0.4, "hours": 4.5 * 24 / 8000, "chip_hours": 64 * 4.5 * 24 / 8000}
  whole = searched(8000, one)
  assert whole["hours"] == pytest.approx(108) and whole["chip_hours"] == pytest.approx(6912)


def test_examples_are_called_what_they_are(tmp_path, monkeypatch, capsys):
  name = "configs/assemblenet.py:model=video_resnet_tiny"
  found = _uncompiled(name, tmp_path, monkeypatch)
  assert (found["image_size"], found["frames"]) == (32, 16)
  said = capsys.readouterr().out
  assert "32 px, 16 frames" in said and "4 clips a chip" in said and "GFLOP a clip" in said


def test_arms_of_a_search_by_teachers():
  config = configuration.load("configs/akd.py:imagenet,seeds=2,trials=100")
  made = planning.children(config)
  assert {arm: each.count for arm, each in made.items()} == {"plain": 200, "teacher": 200}
  tasks = {arm: each.config.task.name for arm, each in made.items()}
  assert tasks == {"plain": "classification", "teacher": "distillation"}
  # No child sees the test split.
  assert made["plain"].config.data.split.test == config.data.split.validation
  with pytest.raises(errors.UserError, match="teachers.efficient is yet to be trained; a plan"):
    planning.children(configuration.load("configs/akd.py"))
  for changes, words in (
    ({"evaluator": {"name": "table"}}, "evaluator.name='table' trains nothing"),
    ({"evaluator": {"name": "landscape"}}, "evaluator.name='landscape' trains nothing"),
  ):
    wrong = configuration.load("configs/search_mnasnet.py")
    configuration.merge(wrong, {"search": changes}, key="the test")
    with pytest.raises(errors.UserError, match=words):
      planning.children(wrong)


def _arguments(lowered):
  flat, _ = jax.tree_util.tree_flatten_with_path(lowered.args_info)
  return [(jax.tree_util.keystr(path), leaf) for path, leaf in flat]


def test_texts_and_teachers_that_are_not_here(tmp_path, monkeypatch, capsys):
  config = configuration.load("configs/bam.py:glue,folder=NOWHERE")
  seen = []

  def facts(lowered, where, **_):
    seen.append(lowered)
    return programs.Facts(True, flops=1e9)

  monkeypatch.setattr(programs, "inspect", facts)
  with config.unlocked():
    config.model.depth = 1
    config.plan.update({"topology": "cpu:8", "stage": "single_multi"})
  (found,) = _plan(config, tmp_path)
  assert (found["stage"], found["tokens"], found["batch"]["per_chip"]) == ("single_multi", 128, 16)
  # The paper's pool, six times.
  assert found["steps"] == 6 * 1_080_322 // 128
  # The encoder's count by its formula, and heads of 16 outputs.
  width, words = 1024, 30_522
  weights = width * (words + 514) + 2 * width + 12 * width**2 + 13 * width + width**2 + width
  assert found["memory_per_chip"]["parameters"] == 4 * (weights + 16 * (width + 1))
  # What single networks say of each text, of at most three classes.
  shapes = {name: leaf.shape for name, leaf in _arguments(seen[0])}
  (teachers,) = (shape for name, shape in shapes.items() if "targets" in name)
  assert teachers == (128, 3)
  assert "bert_large, 128 tokens" in capsys.readouterr().out
  # Without a teacher there are none.
  with config.unlocked():
    config.plan.stage = "single_rte"
  (found,) = _plan(config, tmp_path)
  assert found["batch"]["labelled"] == 32 and found["steps"] == 3 * 2490 // 32
  assert not any("targets" in name for name, _ in _arguments(seen[1]))


def test_the_largest_batch_is_where_the_line_meets_the_memory(tmp_path, monkeypatch):
  config = _config(topology="v5e-4", search_batch=True)
  tried = []

  # As if every image of a device took a gigabyte beside two: 14 images fit into 16 GiB.
  def facts(lowered, where, **_):
    shape = next(leaf.shape for name, leaf in _arguments(lowered) if "image" in name)
    tried.append(shape[0])
    used = (2 + shape[0] / 4) * slices.GIB
    return programs.Facts(used <= 16 * slices.GIB, "Used much", temporaries=int(used), flops=1.0)

  monkeypatch.setattr(programs, "inspect", facts)
  monkeypatch.setattr(slices.Slice, "devices", lambda self: jax.devices()[:4])
  (found,) = _plan(config, tmp_path)
  assert found["largest_batch"] == {"batch_size": 56, "per_chip": 14.0}
  assert tried == [16, 4, 8, 56]  # its own, two for the line, and the one that confirms it


def test_what_does_not_fit_gets_other_layouts(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(slices.Slice, "devices", lambda self: jax.devices()[:4])
  answers = iter(
    [programs.Facts(False, "Used 17.1G of 15.75G hbm"), programs.Facts(True, flops=1.0)]
  )
  monkeypatch.setattr(programs, "inspect", lambda *_, **__: next(answers))
  (found,) = _plan(_config(topology="v5e-4"), tmp_path)
  assert not found["fits"] and "roofline" not in found
  (first,) = found["layouts"]
  assert first["changes"] == {"model": {"remat": "norm"}} and first["fits"]
  assert "Used 17.1G of 15.75G hbm" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"topology": "v5e-17"}, "Nearest: 'v5e-16', 'v5e-32'"),
    ({"stage": "teachr"}, "config.plan.stage='teachr' is not a stage"),
    ({"topology": "cpu:5"}, "does not divide over data\\*fsdp=5"),
    ({"search_batch": True}, "how much memory 'cpu:8' has is not known"),
  ],
)
def test_mistakes(changes, words, tmp_path, monkeypatch):
  monkeypatch.setattr(programs, "inspect", lambda *_, **__: programs.Facts(True, flops=1.0))
  with pytest.raises(errors.UserError, match=words):
    commands.plan(_config(**changes), str(tmp_path))
  assert not (tmp_path / "plan.json").exists()


def test_a_mesh_that_does_not_multiply_to_the_slice(tmp_path):
  config = _config()
  config.mesh.update({"data": 3, "fsdp": 2})
  with pytest.raises(errors.UserError, match="multiplies to 6 device.*there are 8"):
    commands.plan(config, str(tmp_path))


@pytest.mark.slow
def test_the_tpu_compiler_plans_for_a_slice_that_is_not_here(tmp_path):
  pytest.importorskip("libtpu")
  # In a process of its own: the profiler of one that has loaded the library crashes.
  flags = ["--mode=plan", "--config.plan.topology=v5e-4", "--config.batch_norm.group=local"]
  child = tiny.start(tmp_path, *flags)
  said, _ = child.communicate(timeout=300)
  assert child.returncode == 0, said
  (found,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
  assert found["fits"] and found["chips"] == 4 and found["mesh"]["data"] == 4
  assert found["memory_per_chip"]["capacity"] == 16 * 2**30
  assert {k: v["count"] for k, v in found["collectives"].items()} == {"all-reduce": 1}
  assert found["roofline"]["images_per_second_per_chip"] > 0
