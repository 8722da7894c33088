"""Saccader: hard attention (Elsayed et al. 2019, arXiv 1908.07644).

`configs/saccader.py`: whole digits of 24 to 40 pixels somewhere among fragments of others, on 64
pixels; a network of patches of 9 pixels, which show a stroke, a location network that learns by
itself, and policy gradient; some four minutes on two CPU cores. The best places tell the same,
policy gradient finds those that go together. After 800 and 400 steps, eight places of the location
network got 46.8 % of the test digits and all patches 67.7 %; after 1,000 of policy gradient six got
81.9 % (seed 0).
`configs/saccader.py:patches`: then an EfficientNet for the patches, cut from pictures of 96 pixels.
`configs/saccader.py:imagenet`: the paper's run, BagNet-77-lowD at 224 pixels; TPU slices; 70.3 %
top-1 with 6 glimpses published.
`configs/saccader.py:imagenet,larger`: the trained Saccader on larger images too, 331 and 448
pixels. `configs/saccader.py:imagenet,patches,classifier=resnet50`: a network of the zoo on patches
of 113 pixels, cut from pictures of 331; with NASNet-A-Large 75.0 % published.
`configs/saccader.py:imagenet,bagnet=33` has patches of 9, 17, 33 or 77 pixels, all features.
`stages=represent+locate`: some stages alone; `steps=`, `seed=` set the two that change most.
"""

import ml_collections

from effnets import configuration, errors, recipes

_BAGNETS = (9, 17, 33, 77)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; `arg` is a comma list of the words and keys above."""
  words = ["cluttered_digits", "imagenet", "larger", "patches"]
  args = configuration.arguments(
    arg, words=words, seed=0, steps=0, stages="", classifier="", bagnet=0
  )
  config = configuration.base()
  config.seed = args.seed
  if args.classifier and "patches" not in args.words:
    raise errors.UserError(
      f"the config's argument classifier={args.classifier!r} goes with the word patches."
    )
  if "imagenet" in args.words:
    recipes.saccader_imagenet(config)
    if args.bagnet:
      if args.bagnet not in _BAGNETS:
        known = map(str, _BAGNETS)
        raise errors.unknown("the config's argument bagnet", args.bagnet, "a size", known)
      network = recipes.bagnet(args.bagnet)
      config.model.update(network)
    if "larger" in args.words:
      config.pipeline.evaluation.sizes = (331, 448)
    if "patches" in args.words:
      recipes.saccader_patches(config, args.classifier or "resnet50", image_size=331)
    if args.steps:
      config.train.update({"steps": args.steps, "epochs": 0.0})
  else:
    if args.bagnet:
      raise errors.UserError(f"the config's argument bagnet={args.bagnet} goes with imagenet.")
    recipes.saccader_digits(config, steps=args.steps or 800)
    if "larger" in args.words:
      config.pipeline.evaluation.sizes = (96,)
    if "patches" in args.words:
      classifier = args.classifier or "efficientnet_tiny"
      recipes.saccader_patches(config, classifier, image_size=96)
  if args.stages:
    config.pipeline.stages = args.stages.replace("+", ",")
  return config.lock()
