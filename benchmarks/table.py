"""All benchmarks, and the page that is made of their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.archives import archives, shards
from benchmarks.coco_ap import coco_ap
from benchmarks.detectors import detector, roi_align
from benchmarks.images import images
from benchmarks.inference import fused, fused_cost, inference_cost, openvino
from benchmarks.measure import Setting
from benchmarks.processes import processes
from benchmarks.saving import saving
from benchmarks.tails import compiled, kernels, own_backward, tail
from benchmarks.training import network, training_cost
from benchmarks.waiting import waiting


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by its name.

    Attributes:
        run: gives its result.
        variants: what it is run with in ``all``, a row each: fields of Setting in place of the command line's.
        shown: of the result, what the page shows: {heading: path of keys}.
    """

    run: Callable[[Setting], dict]
    variants: tuple[Mapping, ...] = ()
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def what(self) -> str:
        return " ".join(self.run.__doc__.split())


_BOTH = ({"precision": "fp32"}, {"precision": "bf16"})
_LARGE = tuple({"batch": 1, "size": 800, **variant} for variant in _BOTH)

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(fused_cost, (*_BOTH, *_LARGE), {"SE over plain": ("se_over_plain", "median")}),
        Benchmark(
            inference_cost,
            _BOTH,
            {"SE over plain": ("se_over_plain", "median"), "timm's": ("theirs_se_over_plain", "median")},
        ),
        Benchmark(
            fused,
            _BOTH,
            {
                "times as fast as not fused": ("times_as_fast_as_eager", "median"),
                "as timm": ("times_as_fast_as_timm", "median"),
                "as timm in fp32": ("times_as_fast_as_timm_fp32", "median"),
            },
        ),
        Benchmark(openvino, _BOTH, {"time over OpenVINO's": ("over_openvino", "median")}),
        Benchmark(
            detector,
            tuple({"batch": 1, "size": 480, **variant} for variant in _BOTH),
            {
                "times as fast": ("times_as_fast", "median"),
                "with SE": ("se_times_as_fast", "median"),
                "SE over plain": ("se_over_plain", "median"),
            },
        ),
        Benchmark(
            roi_align,
            _BOTH,
            {"times as fast": ("times_as_fast", "median"), "largest difference": ("largest_difference",)},
        ),
        Benchmark(
            training_cost,
            _BOTH,
            {"SE over plain": ("se_over_plain", "median"), "timm's": ("theirs_se_over_plain", "median")},
        ),
        Benchmark(
            waiting,
            tuple({"batch": 8, "size": 128, "rounds": 5, **variant} for variant in _BOTH),
            {
                "busy over quiet, ours": ("busy_over_quiet", "ours"),
                "libgomp's own": ("busy_over_quiet", "libgomp's own"),
                "passive": ("busy_over_quiet", "passive"),
                "quiet, ours over libgomp's": ("quiet_over_libgomp", "ours"),
                "passive over libgomp's": ("quiet_over_libgomp", "passive"),
            },
        ),
        Benchmark(network, _BOTH, {"times as fast": ("times_as_fast", "median")}),
        Benchmark(tail, _BOTH, {"times as fast": ("times_as_fast", "median")}),
        Benchmark(own_backward, _BOTH, {"times as fast": ("times_as_fast", "median")}),
        Benchmark(
            coco_ap,
            ({"rounds": 9},),
            {
                "processor seconds, whole command": ("processor_seconds", "command"),
                "reading and evaluating": ("processor_seconds", "reading_and_evaluating"),
                "imports": ("processor_seconds", "imports"),
            },
        ),
        Benchmark(
            images,
            ({"precision": "fp32", "batch": 32, "size": 224, "rounds": 7},),
            {
                "times as many images a second": ("ours", "times_as_many", "median"),
                "with normalisation": ("ours_normalised", "times_as_many", "median"),
            },
        ),
        Benchmark(
            archives,
            ({"precision": "fp32", "batch": 128, "size": 32, "rounds": 7},),
            {
                "a zip, times as many as folders": ("zip", "times_as_many", "median"),
                "a tar": ("tar", "times_as_many", "median"),
            },
        ),
        Benchmark(
            shards,
            ({"precision": "fp32", "batch": 128, "size": 32, "rounds": 7},),
            {"times as many as folders": ("in_shards", "times_as_many", "median")},
        ),
        Benchmark(
            processes,
            ({"precision": "fp32", "batch": 16, "size": 112, "rounds": 9},),
            {
                "two processes, times as many images a second": ("times_as_many", "median"),
                "processor time": ("processor_time", "median"),
            },
        ),
        Benchmark(
            saving,
            ({"precision": "fp32", "rounds": 7},),
            {
                "seconds at once": ("seconds", "at once"),
                "beside": ("seconds", "beside"),
                "times as long": ("times_as_long", "median"),
            },
        ),
        Benchmark(compiled, ({"precision": "fp32"},), {"kernels": ("kernels",)}),
        Benchmark(kernels),
    )
}


def page(results: list[Mapping], source: str = "results/benchmarks.json") -> str:
    """The results as Markdown: a table of each benchmark, with the peers beside.

    Args:
        source: the file that the results are kept in.
    """
    lines = [
        "# Benchmarks",
        "",
        f"<!-- made by tools/benchmark.py all from {source}: edit neither -->",
        "",
        "Everybody's turn comes in each round, in one process; a ratio is the median over the rounds of the ratio "
        "within a round. Networks have random weights.",
    ]
    for name, benchmark in BENCHMARKS.items():
        own = [result for result in results if result["benchmark"] == name]
        if not own or not benchmark.shown:
            continue
        lines += ["", f"## {name}", "", benchmark.what, ""]
        headings = ["precision", "images", "pixels", *benchmark.shown, "beside"]
        lines += ["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
        for result in own:
            cells = [result["precision"], result["batch"], result["size"]]
            for path in benchmark.shown.values():
                value = result
                for key in path:
                    value = value[key]
                cells.append(value)
            lines.append("| " + " | ".join(map(str, [*cells, result.get("theirs", "-")])) + " |")
    last = results[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    lines += ["", f"{last['hardware']}; {versions}. Command: `{last['command']}`", ""]
    return "\n".join(lines)
