"""Name the scenes of pictures, folders of pictures and videos: python tools/predict_scene.py --help"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Name the scenes of pictures, folders and videos: five classes with their probabilities, indoor or "
        "outdoor, and what speaks for the first class. Writes annotated copies and one JSON.",
        epilog="Exit code: 0 all well, 1 some inputs skipped or incomplete, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, video, or folder to search through")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, such as RUN/model_final.pth")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--config", metavar="FILE", help="YAML to use instead of the config inside the checkpoint")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures at a time (8 on a GPU, 1 on a CPU)")
    parser.add_argument("--max-images", type=int, metavar="N", help="stop after N pictures and video frames")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM keeps what was done, as Ctrl-C does

    from places365.predict import ScenePredictor  # only now: PyTorch takes seconds to import
    from places365.predict_files import predict_files

    predictor = ScenePredictor.from_checkpoint(options.weights, options.config, options.device)
    print(f"telling {len(predictor.classes)} scene classes apart on {predictor.device}", file=sys.stderr)
    report = predict_files(predictor, options.inputs, options.output, options.batch_size, options.max_images)
    ending = "interrupted after" if report.interrupted else "done:"
    trouble = f", {len(report.problems)} inputs with problems" if report.problems else ""
    print(f"{ending} {report.pictures} pictures{trouble}: {report.records_path}")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main_guard(main))
