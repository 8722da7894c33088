"""The learned policies of AutoAugment, as published: operation, probability, magnitude.

One sub-policy a line, its operations in the order in which they are applied. `v0` and the policies
for detection are to be read in the official code's convention, the others in that of the older
CIFAR code (see `magnitudes.row`).

Source: Cubuk et al. 2018 (arXiv 1805.09501) for `ORIGINAL` (reduced ImageNet), `CIFAR10` and
`SVHN`; the official EfficientNet code for `V0`; Zoph et al. 2019 (arXiv 1906.11172) and its code
for `DETECTION_V0` to `DETECTION_V3`, whose operations are those of `boxes.OPERATIONS`.
"""

Policy = tuple[tuple[tuple[str, float, float], ...], ...]


def parse(text: str) -> Policy:
  """Returns the sub-policies of a table below, each a tuple of (operation, probability, magnitude).

  >>> parse("color 0.4 9, equalize 0.6 3")
  ((('color', 0.4, 9.0), ('equalize', 0.6, 3.0)),)
  """
  return tuple(
    tuple(
      (name, float(probability), float(magnitude))
      for name, probability, magnitude in (operation.split() for operation in line.split(", "))
    )
    for line in text.strip().splitlines()
  )


V0 = """
equalize 0.8 1, shear_y 0.8 4
color 0.4 9, equalize 0.6 3
color 0.4 1, rotate 0.6 8
solarize 0.8 3, equalize 0.4 7
solarize 0.4 2, solarize 0.6 2
color 0.2 0, equalize 0.8 8
equalize 0.4 8, solarize_add 0.8 3
shear_x 0.2 9, rotate 0.6 8
color 0.6 1, equalize 1 2
invert 0.4 9, rotate 0.6 0
equalize 1 9, shear_y 0.6 3
color 0.4 7, equalize 0.6 0
posterize 0.4 6, autocontrast 0.4 7
solarize 0.6 8, color 0.6 9
solarize 0.2 4, rotate 0.8 9
rotate 1 7, translate_y 0.8 9
shear_x 0 0, solarize 0.8 4
shear_y 0.8 0, color 0.6 4
color 1 0, rotate 0.6 2
equalize 0.8 4, equalize 0 8
equalize 1 4, autocontrast 0.6 2
shear_y 0.4 7, solarize_add 0.6 7
posterize 0.8 2, solarize 0.6 10
solarize 0.6 8, equalize 0.6 1
color 0.8 6, rotate 0.4 5
"""

# Five of the 25 published lines stand there twice: `original` below.
ORIGINAL = """
posterize 0.4 8, rotate 0.6 9
solarize 0.6 5, autocontrast 0.6 5
equalize 0.8 8, equalize 0.6 3
posterize 0.6 7, posterize 0.6 6
equalize 0.4 7, solarize 0.2 4
equalize 0.4 4, rotate 0.8 8
solarize 0.6 3, equalize 0.6 7
posterize 0.8 5, equalize 1 2
rotate 0.2 3, solarize 0.6 8
equalize 0.6 8, posterize 0.4 6
rotate 0.8 8, color 0.4 0
rotate 0.4 9, equalize 0.6 2
equalize 0 7, equalize 0.8 8
invert 0.6 4, equalize 1 8
color 0.6 4, contrast 1 8
rotate 0.8 8, color 1 2
color 0.8 8, solarize 0.8 7
sharpness 0.4 7, invert 0.6 8
shear_x 0.6 5, equalize 1 9
color 0.4 0, equalize 0.6 3
"""

CIFAR10 = """
invert 0.1 7, contrast 0.2 6
rotate 0.7 2, translate_x 0.3 9
sharpness 0.8 1, sharpness 0.9 3
shear_y 0.5 8, translate_y 0.7 9
autocontrast 0.5 8, equalize 0.9 2
solarize 0.4 5, autocontrast 0.9 3
translate_y 0.9 9, translate_y 0.7 9
autocontrast 0.9 2, solarize 0.8 3
equalize 0.8 8, invert 0.1 3
translate_y 0.7 9, autocontrast 0.9 1
solarize 0.4 5, autocontrast 0 2
translate_y 0.7 9, translate_y 0.7 9
autocontrast 0.9 0, solarize 0.4 3
equalize 0.7 5, invert 0.1 3
translate_y 0.7 9, translate_y 0.7 9
solarize 0.4 5, autocontrast 0.9 1
translate_y 0.8 9, translate_y 0.9 9
autocontrast 0.8 0, translate_y 0.7 9
translate_y 0.2 7, color 0.9 6
equalize 0.7 6, color 0.4 9
shear_y 0.2 7, posterize 0.3 7
color 0.4 3, brightness 0.6 7
sharpness 0.3 9, brightness 0.7 9
equalize 0.6 5, equalize 0.5 1
contrast 0.6 7, sharpness 0.6 5
brightness 0.3 7, autocontrast 0.5 8
autocontrast 0.9 4, autocontrast 0.5 6
solarize 0.3 5, equalize 0.6 5
translate_y 0.2 4, sharpness 0.3 3
brightness 0 8, color 0.8 8
solarize 0.2 6, color 0.8 6
solarize 0.2 6, autocontrast 0.8 1
solarize 0.4 1, equalize 0.6 5
brightness 0 0, solarize 0.5 2
autocontrast 0.9 5, brightness 0.5 3
contrast 0.7 5, brightness 0 2
solarize 0.2 8, solarize 0.1 5
contrast 0.5 1, translate_y 0.2 9
autocontrast 0.6 5, translate_y 0 9
autocontrast 0.9 4, equalize 0.8 4
brightness 0 7, equalize 0.4 7
solarize 0.2 5, equalize 0.7 5
equalize 0.6 8, color 0.6 2
color 0.3 7, color 0.2 4
autocontrast 0.5 2, solarize 0.7 2
autocontrast 0.2 0, equalize 0.1 0
shear_y 0.6 5, equalize 0.6 5
brightness 0.9 3, autocontrast 0.4 1
equalize 0.8 8, equalize 0.7 7
equalize 0.7 7, solarize 0.5 0
equalize 0.8 4, translate_y 0.8 9
translate_y 0.8 9, translate_y 0.6 9
translate_y 0.9 0, translate_y 0.5 9
autocontrast 0.5 3, solarize 0.3 4
solarize 0.5 3, equalize 0.4 4
color 0.7 7, translate_x 0.5 8
equalize 0.3 7, autocontrast 0.4 8
translate_y 0.4 3, sharpness 0.2 6
brightness 0.9 6, color 0.2 8
solarize 0.5 2, invert 0 3
autocontrast 0.1 5, brightness 0 0
cutout 0.2 4, equalize 0.1 1
equalize 0.7 7, autocontrast 0.6 4
color 0.1 8, shear_y 0.2 3
shear_y 0.4 2, rotate 0.7 0
shear_y 0.1 3, autocontrast 0.9 5
translate_y 0.3 6, cutout 0.3 3
equalize 0.5 0, solarize 0.6 6
autocontrast 0.3 5, rotate 0.2 7
equalize 0.8 2, invert 0.4 0
equalize 0.9 5, color 0.7 0
equalize 0.1 1, shear_y 0.1 3
autocontrast 0.7 3, equalize 0.7 0
brightness 0.5 1, contrast 0.1 7
contrast 0.1 4, solarize 0.6 5
solarize 0.2 3, shear_x 0 0
translate_x 0.3 0, translate_x 0.6 0
equalize 0.5 9, translate_y 0.6 7
shear_x 0.1 0, sharpness 0.5 1
equalize 0.8 6, invert 0.3 6
autocontrast 0.3 9, cutout 0.5 3
shear_x 0.4 4, autocontrast 0.9 2
shear_x 0 3, posterize 0 3
solarize 0.4 3, color 0.2 4
equalize 0.1 4, equalize 0.7 6
equalize 0.3 8, autocontrast 0.4 3
solarize 0.6 4, autocontrast 0.7 6
autocontrast 0.2 9, brightness 0.4 8
equalize 0.1 0, equalize 0 6
equalize 0.8 4, equalize 0 4
equalize 0.5 5, autocontrast 0.1 2
solarize 0.5 5, autocontrast 0.9 5
autocontrast 0.6 1, autocontrast 0.7 8
equalize 0.2 0, autocontrast 0.1 2
equalize 0.6 9, equalize 0.4 4
"""

SVHN = """
shear_x 0.9 4, invert 0.2 3
shear_y 0.9 8, invert 0.7 5
equalize 0.6 5, solarize 0.6 6
invert 0.9 3, equalize 0.6 3
equalize 0.6 1, rotate 0.9 3
shear_x 0.9 4, autocontrast 0.8 3
shear_y 0.9 8, invert 0.4 5
shear_y 0.9 5, solarize 0.2 6
invert 0.9 6, autocontrast 0.8 1
equalize 0.6 3, rotate 0.9 3
shear_x 0.9 4, solarize 0.3 3
shear_y 0.8 8, invert 0.7 4
equalize 0.9 5, translate_y 0.6 6
invert 0.9 4, equalize 0.6 7
contrast 0.3 3, rotate 0.8 4
invert 0.8 5, translate_y 0 2
shear_y 0.7 6, solarize 0.4 8
invert 0.6 4, rotate 0.8 4
shear_y 0.3 7, translate_x 0.9 3
shear_x 0.1 6, invert 0.6 5
solarize 0.7 2, translate_y 0.6 7
shear_y 0.8 4, invert 0.8 8
shear_x 0.7 9, translate_y 0.8 3
shear_y 0.8 5, autocontrast 0.7 3
shear_x 0.7 2, invert 0.1 5
"""

# The often quoted CIFAR-10 policy of 25 is made of lines above and these; `cifar10_25` below.
CIFAR10_MORE = """
equalize 0.2 0, autocontrast 0.6 0
equalize 0.2 8, equalize 0.6 4
color 0.9 9, equalize 0.6 6
autocontrast 0.8 4, solarize 0.2 8
brightness 0.1 3, color 0.7 0
"""

DETECTION_V0 = """
translate_x 0.6 4, equalize 0.8 10
translate_y_in_boxes 0.2 2, cutout 0.8 8
sharpness 0 8, shear_x 0.4 0
shear_y 1 2, translate_y_in_boxes 0.6 6
rotate 0.6 10, color 1 6
"""

# In addition to those of `DETECTION_V0`.
DETECTION_V1_MORE = """
color 0 0, shear_x_in_boxes 0.8 4
shear_y_in_boxes 0.8 2, flip_in_boxes 0 10
equalize 0.6 10, translate_x 0.2 2
color 1 10, translate_y_in_boxes 0.4 6
rotate 0.8 10, contrast 0 10
cutout 0.2 2, brightness 0.8 10
color 1 6, equalize 1 2
cutout_in_boxes 0.4 6, translate_y_in_boxes 0.8 2
color 0.2 8, rotate 0.8 10
sharpness 0.4 4, translate_y_in_boxes 0 4
sharpness 1 4, solarize_add 0.4 4
rotate 1 8, sharpness 0.2 8
shear_y 0.6 10, equalize_in_boxes 0.6 8
shear_x 0.2 6, translate_y_in_boxes 0.2 10
solarize_add 0.6 8, brightness 0.8 10
"""

DETECTION_V2 = """
color 0 6, cutout 0.6 8, sharpness 0.4 8
rotate 0.4 8, sharpness 0.4 2, rotate 0.8 10
translate_y 1 8, autocontrast 0.8 2
autocontrast 0.4 6, shear_x 0.8 8, brightness 0 10
solarize_add 0.2 6, contrast 0 10, autocontrast 0.6 0
cutout 0.2 0, solarize 0.8 8, color 1 4
translate_y 0 4, equalize 0.6 8, solarize 0 10
translate_y 0.2 2, shear_y 0.8 8, rotate 0.8 8
cutout 0.8 8, brightness 0.8 8, cutout 0.2 2
color 0.8 4, translate_y 1 6, rotate 0.6 6
rotate 0.6 10, cutout_at_box 1 4, cutout 0.2 8
rotate 0 0, equalize 0.6 6, shear_y 0.6 8
brightness 0.8 8, autocontrast 0.4 2, brightness 0.2 2
translate_y 0.4 8, solarize 0.4 6, solarize_add 0.2 10
contrast 1 10, solarize_add 0.2 8, equalize 0.2 4
"""

DETECTION_V3 = """
posterize 0.8 2, translate_x 1 8
cutout_at_box 0.2 10, sharpness 1 8
rotate 0.6 8, rotate 0.8 10
equalize 0.8 10, autocontrast 0.2 10
solarize_add 0.2 2, translate_y 0.2 8
sharpness 0 2, color 0.4 8
equalize 1 8, translate_y 1 8
posterize 0.6 2, rotate 0 10
autocontrast 0.6 0, rotate 1 6
equalize 0 4, cutout 0.8 10
brightness 1 2, translate_y 1 6
contrast 0 2, shear_y 0.8 0
autocontrast 0.8 10, contrast 0.2 10
rotate 1 10, cutout 1 10
solarize_add 0.8 6, equalize 0.8 8
"""


def _original() -> Policy:
  once = parse(ORIGINAL)
  return once + tuple(once[line] for line in (4, 1, 13, 14, 2))


def _cifar10_25() -> Policy:
  lines = parse(CIFAR10)
  return lines[:5] + lines[20:25] + lines[55:60] + parse(CIFAR10_MORE) + lines[5:10]


# Of whole pictures, in the official code's convention and in the older one's.
OFFICIAL: dict[str, Policy] = {"v0": parse(V0)}
PIL: dict[str, Policy] = {
  "original": _original(),
  "cifar10": parse(CIFAR10),
  "cifar10_25": _cifar10_25(),
  "svhn": parse(SVHN),
}
# Of pictures with boxes, in the official code's convention.
DETECTION: dict[str, Policy] = {
  "v0": parse(DETECTION_V0),
  "v1": parse(DETECTION_V0 + DETECTION_V1_MORE.lstrip()),
  "v2": parse(DETECTION_V2),
  "v3": parse(DETECTION_V3),
}
