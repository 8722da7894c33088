"""Plans the papers' runs on slices of TPUs, for the cards.

`python experiments/plans.py [PAPER ...]` writes `experiments/PAPER/plan.json`. It needs
`pip install 'effnets[plan]'` and no TPU; a step that was compiled before is there at once, others
take minutes each.
"""

import json
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/plans")
LOCAL = "--config.batch_norm.group=local"
SCENES = "--config.data.source=coco:PATH"
# Paper -> config, slice (the paper's own, or of the kind that is there today), further flags.
PLANS = {
  "efficientnet": [
    ("configs/efficientnet.py:b0", "v5e-16", [LOCAL]),
    ("configs/efficientnet.py:b4", "v5e-64", [LOCAL]),
    ("configs/efficientnet.py:b7", "v5e-256", [LOCAL]),
    ("configs/efficientnet.py:b0", "v5e-16", []),
    ("configs/efficientnet.py:b0", "v5e-16", [LOCAL, "--config.model.remat=norm"]),
  ],
  "mnasnet": [("configs/mnasnet.py:a1", "v5e-16", [])],
  "mobilenetv3": [("configs/mobilenetv3.py:large", "v5e-16", [])],
  "mixnet": [("configs/mixnet.py:s", "v5e-16", [])],
  "randaugment": [("configs/randaugment.py:imagenet", "v5e-16", [])],
  "advprop": [("configs/advprop.py:b8", "v5p-512", [LOCAL])],
  "noisy_student": [
    (
      "configs/noisy_student.py:imagenet,unlabelled=folder:PATH",
      "v5p-512",
      [LOCAL, f"--config.plan.stage={stage}"],
    )
    for stage in ("student_1", "finetune")
  ],
  "efficientdet": [
    ("configs/efficientdet.py:d0", "v3-32", [SCENES]),
    ("configs/efficientdet.py:d4", "v3-128", [SCENES]),
    ("configs/efficientdet.py:d7x", "v5p-256", [SCENES, "--config.mesh.space=2"]),
  ],
  "saccader": [
    ("configs/saccader.py:imagenet", "v5e-64", [f"--config.plan.stage={stage}"])
    for stage in ("represent", "locate", "reinforce")
  ],
  "assemblenet": [
    ("configs/assemblenet.py:moments_in_time", "v5e-256", []),
    ("configs/assemblenet.py:charades,101", "v5e-64", []),
  ],
  "video_prediction": [
    ("configs/video_prediction.py:towel_pick", "v5e-16", []),
    ("configs/video_prediction.py:human36m", "v5e-16", ["--config.mesh.fsdp=4"]),
    ("configs/video_prediction.py:kitti", "v5e-32", ["--config.mesh.space=2"]),
  ],
  "bam": [
    ("configs/bam.py:glue,folder=GLUE", topology, [f"--config.plan.stage={stage}"])
    for topology, stage in (("v5e-16", "single_multi"), ("v5e-4", "single_mnli"))
  ],
  "mnasfpn": [("configs/mnasfpn.py:coco", "v5e-16", [SCENES])],
  "spinenet": [("configs/spinenet.py:mask_rcnn,190", "v5p-256", [SCENES])],
  "search": [
    ("configs/search_mnasnet.py:imagenet", "v5e-16", []),
    ("configs/search_spinenet.py:coco", "v5e-16", [SCENES]),
  ],
  "akd": [("configs/akd.py:imagenet", "v5e-64", [])],
}


def main(papers: list[str]) -> int:
  """Plans what is asked for, or everything; returns the exit status."""
  for paper in papers or PLANS:
    if paper not in PLANS:
      sys.stderr.write(f"Error: {paper!r} has no plan; there are {', '.join(PLANS)}.\n")
      return 2
    made = []
    for number, (config, topology, flags) in enumerate(PLANS[paper]):
      workdir = RUNS / paper / str(number)
      call = [f"--config={config}", "--mode=plan", f"--config.plan.topology={topology}", *flags]
      command = [sys.executable, "-m", "effnets.main", *call, f"--workdir={workdir}"]
      if subprocess.run(command).returncode:
        return 1
      made.append(json.loads((workdir / "plan.json").read_text()))
      # After each, so that those that took their minutes are kept.
      (FOLDER / paper / "plan.json").write_text(json.dumps(made, indent=2) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
