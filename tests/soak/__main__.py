"""`python -m tests.soak`: plan after plan over real processes, for some minutes."""

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.soak.figures import MOST_GROWTH, WARM_UP_SECONDS, Files, Memory, Report, report_of
from tests.soak.site import Seen, soak


def main() -> int:
    """Returns 0 if no plan failed and nothing grew that should not."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="after which no plan is begun")
    parser.add_argument("--institutions", type=int, default=4, help="3 or more daemons")
    parser.add_argument("--json", type=Path, help="file for the figures")
    asked = parser.parse_args()
    say(
        f"A coordinator and {asked.institutions} institutions, each a process of its own: plan "
        f"after plan for {asked.minutes:g} minutes."
    )
    with tempfile.TemporaryDirectory(prefix="fedscore-soak-") as scratch:
        seen = soak(
            Path(scratch),
            institutions=asked.institutions,
            is_enough=lambda seen: seen.seconds >= 60 * asked.minutes,
            tell=tell,
        )
    if not any(one.trained for one in seen.plans):
        say(f"No plan was done. {seen.failure}")
        return 1
    report = report_of(seen)
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    say("\n".join(lines_of(report)))
    return 1 if report.problems else 0


def tell(seen: Seen) -> None:
    """Shows how far it came."""
    latest = {one.who: one for one in seen.samples}
    memory = " ".join(f"{latest[name].resident / 1e6:.0f}" for name in seen.names)
    plan = seen.plans[-1]
    say(
        f"{seen.seconds // 60:3.0f}:{seen.seconds % 60:02.0f}  plan {len(seen.plans)}: "
        f"{plan.rounds} rounds, {plan.seconds:.1f} s; MB {memory}; load {seen.loads[-1]:.1f}"
    )


def lines_of(report: Report) -> list[str]:
    """Returns the figures as a person reads them."""
    lines = [
        "",
        f"{report.plans} plans, {report.rounds} rounds in {report.seconds / 60:.1f} minutes; load "
        f"of the machine {report.load[0]:.1f} on average, {report.load[1]:.1f} at most.",
        "",
        f"{'':24}{'first quarter':>16}{'last quarter':>16}",
    ]
    for what, name in (
        ("seconds a plan", "plan"),
        ("seconds to accept", "accepted"),
        ("seconds a round", "round"),
        ("rounds a minute", "rounds_a_minute"),
    ):
        lines.append(
            f"{what:24}{getattr(report.first, name):16.2f}{getattr(report.last, name):16.2f}"
        )
    lines += [
        f"{who + ', peak MB':24}{one:16.1f}{two:16.1f}" for who, (one, two) in report.peaks.items()
    ]
    lines += [
        "",
        f"Memory in MB after {WARM_UP_SECONDS / 60:g} minutes, half of the time, at the end:",
    ]
    for name, one in report.memory.items():
        lines += _memory_lines(name, one)
    lines += [
        "",
        f"{'Bytes of files':49}{'first':>10}{'half':>10}{'end':>10}{'most':>11}{'a plan':>9}",
    ]
    lines += [_files_line(one) for one in report.files]
    lines += ["", f"Exit codes of the daemons: {report.exits}."]
    if report.problems:
        return [*lines, "NOT as it should be:", *report.problems]
    return [
        *lines,
        f"As it should be: no plan failed, memory grew by less than {MOST_GROWTH / 1e6:g} MB, "
        "descriptors, threads and files are bounded, no temporary file is left.",
    ]


def _memory_lines(name: str, memory: Memory) -> list[str]:
    lines = []
    for what, trend in (
        ("RSS", memory.resident),
        ("PSS", memory.proportional),
        ("anonymous", memory.anonymous),
    ):
        if trend is None:
            lines.append(f"{name:12}{what:10}too few samples for a trend")
        else:
            lines.append(
                f"{name:12}{what:10}{trend.early:9.1f}{trend.half:9.1f}{trend.end:9.1f}"
                f"  slope {trend.an_hour:+.2f} +- {trend.error:.2f} an hour"
            )
    for what, (least, early, late, most) in (
        ("descriptors", memory.descriptors),
        ("threads", memory.threads),
    ):
        lines.append(f"{'':12}{what}: {early:g} early, {late:g} late ({least:g} to {most:g})")
    return lines


def _files_line(files: Files) -> str:
    kind = f"{files.bound.who}: {files.bound.kind}"
    return (
        f"{kind:49}{files.first:10,}{files.half:10,}{files.end:10,}{files.most:11,}"
        f"{files.a_plan:9,.0f}"
    )


def say(text: str) -> None:
    """Prints at once: whoever waits for twenty minutes wants to see that they go on."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
