"""`python -m tests.chaos`: thousands of schedules, one of them, or real processes."""

import argparse
import sys
import time
from collections import Counter

from tests.chaos.faults import Kind
from tests.chaos.schedule import Outcome, run


def main() -> int:
    """Returns 0 if no promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--schedules", type=int, default=0, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed of them")
    parser.add_argument("--seed", type=int, help="run one seed and print its trace")
    parser.add_argument("--processes", type=int, default=0, help="runs of real processes")
    asked = parser.parse_args()
    if asked.seed is not None:
        outcome = run(asked.seed)
        say("\n".join(outcome.trace))
        say(f"ended: {outcome.ended}; digest of the trace: {outcome.digest}")
        return 1 if outcome.violations else 0
    broken = 0
    if asked.schedules:
        broken += _schedules(range(asked.first, asked.first + asked.schedules))
    if asked.processes:
        broken += _processes(range(asked.first, asked.first + asked.processes))
    return 1 if broken else 0


def _processes(seeds: range) -> int:
    """Runs real processes, prints what was done to them, and returns how many broke a promise."""
    from tests.chaos.processes import run as run_processes

    done: Counter[str] = Counter()
    broken = 0
    for seed in seeds:
        ran, faults, ended = run_processes(seed)
        done.update(faults)
        broken += bool(ran.violations)
        seconds = time.monotonic() - ran.began
        say(f"run {seed}: {', '.join(faults)}: {ended} after {seconds:.0f} s")
        if ran.violations:
            say("\n".join(ran.events))
    for what, times in sorted(done.items()):
        say(f"{times:8,d}  {what}")
    say(f"{len(seeds)} runs of real processes, {broken} broke a promise.")
    return broken


def _schedules(seeds: range) -> int:
    """Runs the seeds, prints what happened, and returns how many broke a promise."""
    injected: Counter[Kind] = Counter()
    ended: Counter[str] = Counter()
    after: Counter[str] = Counter()
    broken = 0
    started = time.monotonic()
    for number, seed in enumerate(seeds, start=1):
        outcome = run(seed)
        injected += outcome.injected
        ended[outcome.ended] += 1
        after[outcome.after or "none"] += 1
        if outcome.violations:
            broken += 1
            _say_broken(outcome)
        if number % 100 == 0 or number == len(seeds):
            seconds = time.monotonic() - started
            say(f"{number:6,d} schedules in {seconds:,.0f} s, {broken} broke a promise")
    say("\nFaults injected:")
    for kind in Kind:
        say(f"{injected[kind]:8,d}  {kind}")
    say("\nTrainings ended with:")
    for what, times in ended.most_common():
        say(f"{times:8,d}  {what}")
    say("\nPlans after them ended with:")
    for what, times in after.most_common():
        say(f"{times:8,d}  {what}")
    say(f"\n{len(seeds):,} schedules, {sum(injected.values()):,} faults, {broken} broke a promise.")
    return broken


def _say_broken(outcome: Outcome) -> None:
    for one in outcome.violations:
        say(f"seed {outcome.seed}: {one}")
    say(f"    again, with its trace: python -m tests.chaos --seed {outcome.seed}")


def say(text: str) -> None:
    """Prints a line at once: whoever waits for thousands of them wants to see that they go on."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
