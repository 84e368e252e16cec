"""Make a trained classifier or detector smaller by what its gates know: python tools/slim.py drop --help"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard
from engine.run.command_line import keep_work_when_killed

FINE_TUNE = {"nargs": "*", "metavar": "KEY VALUE", "help": "then train on so: SOLVER.EPOCHS 2 SOLVER.BASE_LR 0.02"}


def add_drop(parser):
    parser.add_argument("--fall", type=float, metavar="X", help="points that the figure may fall (one standard error)")


def drop(subject, args, output):
    from engine.slim.drop import describe, drop_gates

    report = drop_gates(subject, output, args.calibration, args.fall, args.rounds)
    return describe(report, subject.info.label(report["figure"]))


def add_prune(parser):
    parser.add_argument("--ratio", type=float, default=0.5, metavar="X", help="share of each layer's channels (0.5)")
    parser.add_argument("--importance", default="gate", metavar="NAME", help="gate, gate_bn, bn, l1, taylor or random")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the importance random (0)")
    parser.add_argument("--fine-tune", **FINE_TUNE)
    parser.add_argument("--from-scratch", action="store_true", help="train the same widths from random weights too")


def prune(subject, args, output):
    from engine.slim.prune import describe, prune_and_train

    how = (args.ratio, args.importance, args.calibration, args.seed)
    report = prune_and_train(subject, output, *how, args.fine_tune, args.from_scratch, args.rounds)
    return describe(report, subject.info.label(report["figure"]))


def add_ratios(parser):
    parser.add_argument("--budget", type=float, default=0.25, metavar="X", help="share of SE's parameters left (0.25)")
    parser.add_argument("--fine-tune", **FINE_TUNE)
    parser.set_defaults(calibration=1024)


def ratios(subject, args, output):
    from engine.slim.ratios import choose_ratios, describe

    report = choose_ratios(subject, output, args.budget, args.calibration, args.fine_tune, args.rounds)
    return describe(report, subject.info.label(report["figure"]))


# Name → what it does, the arguments of its own, what carries it out: (subject, arguments, FILE) → text. Its file's name
# ends as the last word says.
COMMANDS = {
    "drop": ("take out the most constant gates until the figure falls by more than so much", add_drop, drop, "dropped"),
    "prune": ("cut the least important inner channels, and train on", add_prune, prune, "pruned"),
    "ratios": ("drop the gates' hidden units that are worth least, down to a budget", add_ratios, ratios, "ratios"),
}


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Makes a trained network smaller: a checkpoint for every tool, its config, a report, a picture.",
        epilog="KEY VALUE: config keys to change, such as DATA.TRAIN.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (help_text, add, *_) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        command.add_argument("--weights", required=True, type=Path, metavar="FILE", help="such as RUN/model_final.pth")
        command.add_argument("--data", metavar="D", help="the folder that the images lie in now (the run's)")
        command.add_argument("--output", type=Path, metavar="FILE", help="by default beside the weights")
        command.add_argument("--calibration", type=int, default=256, metavar="N", help="training images to see")
        command.add_argument("--rounds", type=int, default=15, metavar="N", help="in which times are measured (15)")
        command.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda or cuda:N")
        add(command)
        command.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_args(arguments)
    if args.calibration < 1 or args.rounds < 2:
        parser.error("--calibration is 1 or more, --rounds 2 or more")
    return args


def open_subject(args):
    from studies.lab.by_task import by_task_of  # only now: PyTorch takes seconds to import

    given = args.device, args.data, args.overrides

    def detector():
        from detection.slim import open_detector

        return open_detector(args.weights, *given)

    def classifier(task):
        from classification.slim import open_classifier

        return open_classifier(args.weights, task, *given)

    return by_task_of(args.weights, detector, classifier)


def main(arguments=None):
    args = parse(arguments)
    keep_work_when_killed()  # Ctrl-C leaves no half of a file, and so does SIGTERM
    *_, carry_out, mark = COMMANDS[args.command]
    output = args.output or args.weights.with_name(f"{args.weights.stem}_{mark}.pth")
    subject = open_subject(args)
    print(f"{carry_out(subject, args, output)}\ndone: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
