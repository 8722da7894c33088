"""The package's metadata covers what the code imports; the wheel works outside the checkout."""

import ast
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import types
import zipfile

import pytest
from packaging import requirements

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def metadata():
  """The keyword arguments of `setuptools.setup`."""
  given = {}
  stub = types.SimpleNamespace(setup=given.update, find_packages=lambda **_: [])
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "setuptools", stub)
    runpy.run_path(str(ROOT / "setup.py"))
  return given


def _plain(name):
  return re.sub(r"[-_.]+", "-", name).lower()


def _imports(*folders):
  names = set()
  for folder in folders:
    for file in (ROOT / folder).rglob("*.py"):
      for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
          names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
          names.add(node.module.split(".")[0])
  return names - sys.stdlib_module_names - {"effnets", "configs", "experiments", "tests"}


def test_everything_imported_is_required(metadata):
  distributions = importlib.metadata.packages_distributions()
  required = {_plain(re.match(r"[\w.-]+", r)[0]) for r in metadata["install_requires"]}
  for module in _imports("effnets", "configs", "experiments"):
    found = {_plain(name) for name in distributions[module]}
    assert found & required, f"{module} of {found} is not in install_requires"
  required |= {"packaging", "ml-dtypes", "scipy"}  # pytest's and jax's own
  required |= {_plain(re.match(r"[\w.-]+", r)[0]) for r in metadata["extras_require"]["test"]}
  for module in _imports("tests"):
    if importlib.util.find_spec(module) is not None:  # peers are optional
      assert {_plain(name) for name in distributions[module]} & required, module


def test_every_requirement_has_a_lower_bound_that_is_installed(metadata):
  for text in (*metadata["install_requires"], *metadata["extras_require"]["test"]):
    requirement = requirements.Requirement(text)
    assert any(s.operator == ">=" for s in requirement.specifier), text
    assert importlib.metadata.version(requirement.name) in requirement.specifier, text


def test_the_core_imports_no_tensorflow():
  code = "import effnets.commands, sys; sys.exit('tensorflow' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
  source, outside = tmp_path / "source", tmp_path / "outside"
  source.mkdir()
  outside.mkdir()
  # A copy: building leaves folders behind, and takes along what an earlier build left.
  for name in ("setup.py", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  for name in ("effnets", "configs"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet", "-w", str(outside)]
  subprocess.run(build, cwd=source, check=True)
  (wheel,) = outside.glob("effnets-*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    archive.extractall(outside / "site")
  modules = {str(p.relative_to(ROOT)) for p in (ROOT / "effnets").rglob("*.py")}
  configs = {f"effnets/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
  assert {n for n in names if n.endswith(".py")} == modules | configs
  assert any(n.endswith("LICENSE") for n in names)
  assert "effnets/data/imagenet_classes.txt" in names

  environment = {**os.environ, "PYTHONPATH": str(outside / "site"), "JAX_PLATFORMS": "cpu"}

  def python(*arguments):
    return subprocess.run(
      [sys.executable, *arguments], cwd=outside, env=environment, capture_output=True, text=True
    )

  where = python("-c", "import effnets; print(effnets.__file__)").stdout
  assert where.startswith(str(outside / "site"))
  done = python("-m", "effnets.main", "--help")
  assert done.returncode == 0 and "--config=FILE" in done.stdout and not done.stderr
  # The shipped config is found by its name, and read: its own key is the nearest.
  call = ["-m", "effnets.main", "--config=configs/noisy_student.py:seed=2", "--workdir=run"]
  done = python(*call, "--config.pipeline.labels.per_clas=3")
  assert done.returncode == 2 and "Nearest: config.pipeline.labels.per_class" in done.stderr
  assert not done.stdout and not (outside / "run").exists()
