#!/usr/bin/env python
"""What no test has the time for: kills, damaged checkpoints, wrong inputs, a full disk and signals, at random.

Needs Linux. A fault is listed with the seed that shows it again. Exit code 0: no fault; 2: at least one.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # sums in one order; and a process that has threads should not be forked
os.environ["MPLBACKEND"] = "Agg"

from engine.errors import UserError, main_guard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("kills", "checkpoints", "inputs", "disk", "terminate")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(names)} or all (the default)")
    parser.add_argument("--count", type=int, metavar="N", help="trials of each part (default: a quarter of an hour)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first trial (0); the next have S+1, …")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="trials at a time (2)")
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    args = parser.parse_args()
    unknown = set(args.parts) - {*names, "all"}
    if unknown or args.seed < 0 or args.processes < 1 or (args.count is not None and args.count < 1):
        parser.error(f"unknown part {unknown.pop()}" if unknown else "--count and --processes from 1, --seed from 0")
    chosen = names if not args.parts or "all" in args.parts else [name for name in names if name in args.parts]

    from engine.json_files import show_json
    from soak.parts import soak  # only now: it takes seconds to import

    result = soak(chosen, args.count, args.seed, args.processes)
    show_json(result, args.json)
    if not result["passed"]:
        raise UserError(f"{sum(len(part['faults']) for part in result['parts'].values())} faults, listed above")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
