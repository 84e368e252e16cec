"""Detect objects in pictures, folders of pictures and videos: python tools/predict.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard
from engine.run.command_line import keep_work_when_killed, prediction_parser, print_report


def parse(arguments=None):
    parser = prediction_parser("Detect objects in pictures, folders and videos; write annotated copies and one JSON.")
    parser.add_argument(
        "--threshold",
        default="0.5",
        metavar="SCORE",
        help="lowest score shown, 0..1 (0.5); best: of each class the one of the highest F1 on the validation set, "
        "which the checkpoint states; or a thresholds.json of an evaluation",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    keep_work_when_killed()

    from detection.predict.files import predict_files
    from detection.predict.predictor import Predictor  # only now: Detectron2 takes seconds to import

    predictor = Predictor.from_checkpoint(
        options.weights, options.config, options.device, options.threshold, options.precision
    )
    print(f"detecting {len(predictor.classes)} classes on {predictor.device}", file=sys.stderr)
    limits = options.batch_size, options.max_images, options.max_pixels
    report = predict_files(predictor, options.inputs, options.output, *limits)
    return print_report(report, f"{report.objects} objects in {report.pictures}")


if __name__ == "__main__":
    sys.exit(main_guard(main))
