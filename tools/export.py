"""Write a trained classifier or detector as a file for another runtime: python tools/export.py --help"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard
from engine.export.formats import FORMATS
from engine.export.options import Options
from engine.run.command_line import keep_work_when_killed


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Writes a model, fused, with all that it does from bytes to boxes or logits in one graph; loads "
        "the file in its own runtime, compares its answers with the checkpoint's on real images, and times both. The "
        "report is written beside it, FILE.json. tools/predict.py, predict_scene.py and predict_image.py take the "
        "file in place of a checkpoint.",
        epilog="int8 looks at images of the run's training set. KEY VALUE: config keys to change, such as DATA.ROOT.",
    )
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE", help="such as RUN/model_final.pth")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16", "int8"))
    parser.add_argument("--dynamic", default="", metavar="A,B", help="what can vary: batch, size (neither)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="by default beside the weights")
    parser.add_argument("--size", metavar="HxW", help="of the images (that of the run's evaluation)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at a time (1)")
    parser.add_argument("--images", type=Path, nargs="+", default=(), metavar="PATH", help="pictures to compare on")
    parser.add_argument("--calibration", type=int, default=300, metavar="N", help="images that int8 looks at (300)")
    parser.add_argument("--int8-gates", action="store_true", help="int8: the layers of the gates too")
    parser.add_argument("--evaluate", action="store_true", help="the accuracy or AP of both on the validation set too")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = vars(parser.parse_intermixed_args(arguments))
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", args["size"]) if args["size"] else None
    if args["size"] and not size:
        parser.error("--size is height x width in pixels, as in 224x224")
    if min(args["batch_size"], args["calibration"]) < 1:
        parser.error("--batch-size and --calibration are 1 or more")
    args |= {"size": size and (int(size[1]), int(size[2])), "images": tuple(args["images"])}
    return Options(**args | {"dynamic": tuple(filter(None, args["dynamic"].split(",")))})


def export(options):
    from studies.lab.by_task import by_task_of  # only now: PyTorch takes seconds to import

    def detector():
        from detection.export.export import export_detector

        return export_detector(options)

    def classifier(task):
        from classification.export.export import export_classifier

        return export_classifier(options, task)

    return by_task_of(options.weights, detector, classifier)


def main(arguments=None):
    options = parse(arguments)
    keep_work_when_killed()  # Ctrl-C leaves no half of a file, and so does SIGTERM
    report = export(options)

    from engine.export.report import describe

    print(f"{describe(report)}\ndone: {options.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
