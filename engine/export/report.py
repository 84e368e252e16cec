"""An export's report, for people."""

from __future__ import annotations


def describe(report: dict) -> str:
    """The report of ``engine.export.make.report_of`` in lines."""
    size, seconds, speed = report["bytes"], report["seconds_an_image"], report["times_as_fast"]
    inputs = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in report["inputs"].items())
    lines = [
        f"{report['architecture']} as {report['format']}, {report['precision']}: {inputs}",
        f"differs from the checkpoint, on {report['difference']['images']} images: "
        + ", ".join(f"{_words(key)} {_shown(value)}" for key, value in report["difference"].items() if key != "images"),
        f"an image takes {_time(seconds['exported'])}, the checkpoint's model, fused, in fp32, "
        f"{_time(seconds['checkpoint'])} ({speed['median']:.2f} times as fast; {report['images_at_a_time']} at a time)",
        f"{_megabytes(size['exported'])}; the checkpoint has {_megabytes(size['checkpoint'])}",
    ]
    if metric := report.get("metric"):
        lines.append(f"on {metric['data']}, {metric['images']:,} images:")
        lines += [f"  {name:<10}  {_figures(metric[name])}" for name in ("checkpoint", "exported")]
    return "\n".join(lines)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _shown(value: float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _figures(figures: dict) -> str:
    return "  ".join(
        f"{key} {_figures(value)}" if isinstance(value, dict) else f"{key} {value:.2f}"
        for key, value in figures.items()
        if value is not None
    )
