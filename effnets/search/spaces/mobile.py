"""The public spaces of TuNAS, and that of Once-for-All.

Source: google-research/google-research, tunas/mobile_search_space_v3.py (Bender et al. 2020, arXiv
2008.06120); mit-han-lab/once-for-all (Cai et al. 2020, arXiv 1908.09791).
"""

import itertools
from collections.abc import Sequence

from effnets import errors
from effnets.models import layers, stage_tables
from effnets.search import space
from effnets.search.spaces import registry, tables

MULTIPLES = (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0)
_SE = layers.Squeeze(0.25, of="expanded", divisor=8, activation="relu", gate="hard_sigmoid")
_RESIDUAL = 3
"""Layers behind the first of a group, each of which may be left out."""


def widths(base: int) -> tuple[int, ...]:
  """Returns the different multiples of a width, rounded to multiples of 8.

  >>> widths(16), len(widths(32)), len(widths(64))
  ((8, 16, 24, 32), 6, 7)
  """
  return tuple(sorted({layers.divisible(base * multiple) for multiple in MULTIPLES}))


class _Chain:
  """Stages under construction; what a stage's choices do is a function of (values, inputs)."""

  def __init__(self):
    self.stages, self.rules, self.parts = [], [], []

  def add(self, where: str, choices: dict[str, tuple], rows, *, optional: bool = False) -> None:
    """Adds a stage. optional: `op` comes first, and `zero` leaves the others without effect."""
    if optional:
      choices = {"op": ("layer", "zero"), **choices}
      self.rules += [
        space.When(f"{where}.{name}", f"{where}.op", ("layer",)) for name in choices if name != "op"
      ]
    self.stages.append(
      [space.Decision(f"{where}.{kind}", values, kind) for kind, values in choices.items()]
    )
    self.parts.append(rows)

  def space(self, *, stem: int, head: int, activation: str, **build) -> tables.TableSpace:
    """Returns the space."""
    hidden = build.pop("hidden", 0)
    table = stage_tables.Table(stem, (), head, activation, head_scaling="fixed", hidden=hidden)
    part = lambda stage, values, inputs: self.parts[stage](values, inputs)  # noqa: E731
    return tables.TableSpace(self.stages, part, table=table, rules=self.rules, build=build)


def _bottleneck(values: dict, stride: int, channels: int, activation: str) -> stage_tables.Row:
  squeeze = _SE if values.get("squeeze") else None
  return stage_tables.Row(
    "mbconv",
    values["kernel"],
    stride,
    values.get("expand", 1),
    channels,
    1,
    squeeze,
    activation,
  )


def _group(
  chain: _Chain,
  where: str,
  choices: dict[str, tuple],
  filters: tuple[int, ...],
  stride: int,
  activation: str,
) -> None:
  """Adds a first layer that strides and sets the width, and layers that may be left out."""
  wide = {"filters": filters} if len(filters) > 1 else {}
  chain.add(
    f"{where}_0",
    {**wide, **choices},
    lambda values, _: [_bottleneck(values, stride, values.get("filters", filters[0]), activation)],
  )
  for index in range(1, _RESIDUAL + 1):
    chain.add(
      f"{where}_{index}",
      choices,
      lambda values, inputs: (
        [_bottleneck(values, 1, inputs, activation)] if values["op"] == "layer" else []
      ),
      optional=True,
    )


def _proxyless(
  base: Sequence[int],
  *,
  searched: bool,
  strides: Sequence[int] = (2, 2, 2, 1, 2),
  image_size: int = 224,
) -> tables.TableSpace:
  """Returns a ProxylessNAS space; base: stem, separable, groups, last layer, head."""
  options = [widths(channels) if searched else (channels,) for channels in base]
  wide = lambda place: {"filters": options[place]} if searched else {}  # noqa: E731
  width = lambda values, place: values.get("filters", options[place][0])  # noqa: E731
  end = lambda op, kernel, stride, channels: [  # noqa: E731
    stage_tables.Row(op, kernel, stride, 1, channels, activation="relu")
  ]
  chain, kernels, expands = _Chain(), (3, 5, 7), (3, 6)
  if searched:
    chain.add("stem", wide(0), lambda v, _: end(tables.STEM, 3, 2, width(v, 0)))
  chain.add(
    "separable",
    {**wide(1), "kernel": kernels},
    lambda values, _: [
      stage_tables.Row(
        "mbconv", values["kernel"], 1, 1, width(values, 1), 1, None, "relu", skip=False
      )
    ],
  )
  both = {"kernel": kernels, "expand": expands}
  for index, stride in enumerate(strides):
    _group(chain, f"group{index}", both, options[2 + index], stride, "relu")
  last = len(strides) + 2
  chain.add(
    "last", {**wide(last), **both}, lambda v, _: [_bottleneck(v, 1, width(v, last), "relu")]
  )
  if searched:
    chain.add("head", wide(last + 1), lambda v, _: end(tables.HEAD, 1, 1, width(v, last + 1)))
  return chain.space(stem=base[0], head=base[-1], activation="relu", image_size=image_size)


@registry.register("proxylessnas")
def proxylessnas() -> tables.TableSpace:
  """Returns TuNAS's `proxylessnas_search`: kernels, expansions and which layers there are."""
  return _proxyless((32, 16, 32, 40, 80, 96, 192, 320, 1280), searched=False)


@registry.register("proxylessnas_enlarged")
def proxylessnas_enlarged() -> tables.TableSpace:
  """Returns TuNAS's `proxylessnas_enlarged_search`: every width is decided too."""
  return _proxyless((16, 16, 16, 32, 64, 128, 256, 512, 1024), searched=True)


@registry.register("proxylessnas_tiny")
def proxylessnas_tiny() -> tables.TableSpace:
  """Returns a narrow `proxylessnas` of two groups for images of 32 pixels."""
  return _proxyless((8, 8, 16, 24, 32, 64), searched=False, strides=(2, 2), image_size=32)


@registry.register("mobilenet_v3_like")
def mobilenet_v3_like() -> tables.TableSpace:
  """Returns TuNAS's `mobilenet_v3_like_search`.

  Where the separable layer is left out, a 1x1 convolution gives its width.
  """
  base = (16, 16, 32, 64, 128, 256, 512, 1024)
  options = [widths(channels) for channels in base]
  chain = _Chain()
  chain.add(
    "stem",
    {"filters": options[0], "kernel": (3, 5)},
    lambda v, _: [
      stage_tables.Row(tables.STEM, v["kernel"], 2, 1, v["filters"], activation="hard_swish")
    ],
  )
  chain.add(
    "separable",
    {"filters": options[1], "op": ("layer", "zero"), "kernel": (3, 5, 7)},
    lambda v, _: [
      _bottleneck(v, 1, v["filters"], "relu")
      if v["op"] == "layer"
      else stage_tables.Row("conv", 1, 1, 1, v["filters"], activation="identity", skip=False)
    ],
  )
  chain.rules.append(space.When("separable.kernel", "separable.op", ("layer",)))
  choices = {"kernel": (3, 5, 7), "expand": (1, 2, 3, 4, 5, 6), "squeeze": (False, True)}
  for index, stride in enumerate((2, 2, 2, 1, 2)):
    activation = "relu" if index < 2 else "hard_swish"
    _group(chain, f"group{index}", choices, options[2 + index], stride, activation)
  chain.add(
    "head",
    {"filters": options[-1]},
    lambda v, _: [stage_tables.Row(tables.HEAD, 1, 1, 1, v["filters"], activation="hard_swish")],
  )
  return chain.space(stem=16, head=1024, activation="hard_swish", hidden=1280, image_size=224)


# Width, stride, squeeze-excitation and activation of Once-for-All's five stages.
_OFA = (
  (24, 2, False, "relu"),
  (40, 2, True, "relu"),
  (80, 2, False, "hard_swish"),
  (112, 1, True, "hard_swish"),
  (160, 2, True, "hard_swish"),
)


class _Depths(tables.TableSpace):
  """Stages of two, three or four layers: far too many to enumerate, but they are powers."""

  def count_unique(self) -> int:
    """Returns how many different keys there are: layers beyond the depth have no effect."""
    each = [len(self.decisions[place].choices) for place in (1, 2)]
    return sum((each[0] * each[1]) ** depth for depth in (2, 3, 4)) ** len(_OFA)

  def encode(self, spec: stage_tables.Table) -> tuple[int, ...]:
    """Returns tokens of a table. Raises: UserError if it is outside."""
    values = {}
    for index, (channels, *_) in enumerate(_OFA):
      rows = [row for row in stage_tables.unroll(spec.rows) if row.channels == channels]
      values[f"stage{index}.depth"] = len(rows)
      for layer, row in enumerate(rows):
        values[f"stage{index}.kernel{layer}"] = row.kernel
        values[f"stage{index}.expand{layer}"] = row.expand
    found = self.tokens(values)
    if stage_tables.unroll(self.decode(found).rows) != stage_tables.unroll(spec.rows):
      raise errors.UserError(f"this network is not in the space {self.name!r}.")
    return found


@registry.register("ofa")
def ofa() -> tables.TableSpace:
  """Returns Once-for-All's space over MobileNetV3: depth, kernels and expansions of five stages."""
  stages, rules = [], []
  for index, _ in enumerate(_OFA):
    where = f"stage{index}"
    stage = [space.Decision(f"{where}.depth", (2, 3, 4), "depth")]
    for layer, (kind, values) in itertools.product(
      range(4), (("kernel", (3, 5, 7)), ("expand", (3, 4, 6)))
    ):
      name = f"{where}.{kind}{layer}"
      stage.append(space.Decision(name, values, kind))
      if layer > 1:
        deep = tuple(depth for depth in (2, 3, 4) if depth > layer)
        rules.append(space.When(name, f"{where}.depth", deep))
    stages.append(stage)

  def part(stage: int, values: dict, inputs: int):
    del inputs
    channels, stride, squeeze, activation = _OFA[stage]
    if stage == 0:
      yield stage_tables.Row("mbconv", 3, 1, 1, 16, 1, None, "relu")
    for layer in range(values["depth"]):
      chosen = {"kernel": values[f"kernel{layer}"], "expand": values[f"expand{layer}"]}
      row = {**chosen, "squeeze": squeeze}
      yield _bottleneck(row, stride if layer == 0 else 1, channels, activation)

  return _Depths(
    stages,
    part,
    table=stage_tables.Table(16, (), 960, "hard_swish", head_scaling="fixed", hidden=1280),
    rules=rules,
  )
