"""Name the classes of pictures, folders of pictures and videos: python tools/predict_image.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard
from engine.run.command_line import keep_work_when_killed, prediction_parser, print_report


def parse(arguments=None):
    parser = prediction_parser(
        "Name the classes of pictures, folders and videos with a trained classifier: the five likeliest with their "
        "probabilities, and what speaks for the first. Writes annotated copies and one JSON."
    )
    parser.add_argument(
        "--sure",
        type=int,
        metavar="PERCENT",
        help="mark as not sure what is less probable than so many percent right answers take: 80, 90, 95, 98 or 99",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    keep_work_when_killed()

    from classification.predict.files import predict_files
    from classification.predict.predictor import Predictor  # only now: PyTorch takes seconds to import

    predictor = Predictor.from_checkpoint(
        options.weights, options.config, options.device, precision=options.precision, sure=options.sure
    )
    print(f"telling {len(predictor.classes)} classes apart on {predictor.device}", file=sys.stderr)
    limits = options.batch_size, options.max_images, options.max_pixels
    report = predict_files(predictor, options.inputs, options.output, *limits)
    return print_report(report, f"{report.pictures}")


if __name__ == "__main__":
    sys.exit(main_guard(main))
