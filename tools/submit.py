#!/usr/bin/env python
"""Queue a training on a SLURM cluster: on any number of nodes, and resumed where it is preempted or its time is up."""

import argparse
import sys
from pathlib import Path

from engine.errors import main_guard

EPILOG = """examples:
  %(prog)s --nodes 2 --gpus 8 --partition gpu --time 1-00:00:00 tools/train_net.py --config FILE
  %(prog)s --gpus 4 --cpus 32 --sbatch account=vision --dry-run tools/train_classifier.py --config FILE --data FOLDER
  %(prog)s --local --gpus 0 --time 60 tools/train_classifier.py --config FILE MODEL.DEVICE cpu
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (1)")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="of each, a process for each; 0: CPUs (1)")
    parser.add_argument("--cpus", type=int, metavar="N", help="cores of each machine, for the loading of images too")
    parser.add_argument("--time", default="60", metavar="T", help="until it is queued again: minutes, D-HH:MM:SS (60)")
    parser.add_argument("--partition", metavar="NAME", help="of the cluster")
    parser.add_argument("--comment", metavar="TEXT", help="for the cluster's people")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION[=VALUE]", help="any other of sbatch's")
    parser.add_argument("--folder", default="output/jobs", metavar="FOLDER", help="of the jobs' logs (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script, and queue nothing")
    parser.add_argument("--local", action="store_true", help="on this machine, to try it")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …", help="the training, as one runs it")
    args = parser.parse_args()
    if not args.command:
        parser.error("name the training: tools/train_net.py --config FILE …")
    if args.nodes < 1 or args.gpus < 0 or (args.local and args.nodes > 1) or (args.cpus is not None and args.cpus < 1):
        parser.error("--nodes and --cpus from 1, --nodes 1 with --local; --gpus from 0")

    from engine.run.submit import Resources, minutes_of, other_options, sbatch_script, submit

    time, more = minutes_of(args.time), other_options(args.sbatch)
    resources = Resources(args.nodes, args.gpus, args.cpus, time, args.partition, args.comment, more)
    folder = Path(args.folder).absolute()
    if args.dry_run:
        print(sbatch_script(args.command, resources, folder))
        return 0
    job = submit(args.command, resources, folder, "local" if args.local else "slurm")
    print(f"job {job.job_id}; its log: {job.paths.stdout}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
