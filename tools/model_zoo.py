"""Writes docs/model_zoo.md and results/results-*.csv, from results/ and the table of published weights."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard

ROOT = Path(__file__).resolve().parents[1]


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help writes nothing

    from studies.zoo.write import write_zoo

    for path in write_zoo(ROOT / "results", ROOT / "docs"):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
