"""`python -m benchmarks [--quick] [--only NAME] [--json FILE]`."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import authoring, live, local, scenarios, seeding
from benchmarks.report import Rows, print_table, write_json
from tests.support.stack import Stack

PARTS = (
    "tools",
    "local",
    "up",
    "latency",
    "rate",
    "webhooks",
    "authoring",
    "lines",
    "live",
    "lookup",
    "list",
)
ON_ONE_STACK = frozenset(PARTS[3:-1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, smaller logs")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part; repeatable")
    parser.add_argument("--json", default="bench-results.json")
    options = parser.parse_args()
    wanted: set[str] = set(options.only or PARTS)
    rounds = 2 if options.quick else 5
    rows = Rows()
    load_before = os.getloadavg()

    def note(text: str) -> None:
        print(f"… {text}", file=sys.stderr, flush=True)

    if "tools" in wanted:
        note("author tools")
        rows.extend(scenarios.author_tools(9))
        for count in (1, 50, 500):
            rows.append(scenarios.compile_of_many(count, 3))
    if "local" in wanted:
        note("local runs")
        rows.extend(local.local_runs(3 if options.quick else 9))
    if "up" in wanted:
        note("kici up, cold and warm")
        rows.extend(scenarios.up_times(rounds))
    with tempfile.TemporaryDirectory(prefix="kici-marks-", dir="/tmp") as folder:
        marks = Path(folder)
        marks.chmod(0o777)
        if wanted & ON_ONE_STACK:
            _on_one_stack(rows, wanted, marks, rounds, note, quick=options.quick)
    if "list" in wanted:
        count = 20_000 if options.quick else 100_000
        note(f"run list at {count:,} runs")
        rows.append(seeding.run_list(count, requests=60))
    print_table(rows)
    write_json(rows, Path(options.json), {**scenarios.machine(), "loadBefore": load_before})
    return 0 if all(row.held is not False for row in rows) else 1


def _on_one_stack(
    rows: Rows,
    wanted: set[str],
    marks: Path,
    rounds: int,
    note: Callable[[str], None],
    *,
    quick: bool,
) -> None:
    with Stack.started(agents=4) as stack:
        note("preparing repositories")
        trivial = stack.repository("bench", {"bench.py": scenarios.TRIVIAL.format(marks=str(marks))})
        trivial.push()
        stack.wait_for_run(status="success")
        if "latency" in wanted:
            note("webhook to first step")
            rows.append(scenarios.webhook_to_first_step(stack, trivial, marks, count=20 if quick else 60))
        if "rate" in wanted:
            note("trivial runs per second")
            rows.extend(
                scenarios.trivial_runs_per_second(stack, trivial, count=60 if quick else 200, rounds=rounds)
            )
        if "webhooks" in wanted:
            note("webhooks accepted per second")
            rows.extend(scenarios.webhooks_accepted(stack, count=2000 if quick else 6000, rounds=rounds))
        if "authoring" in wanted:
            note("graphs, run-time jobs, events and groups")
            rows.extend(authoring.authoring(stack, rounds=2 if quick else 5, count=8 if quick else 20))
        if "lines" in wanted:
            note("a million lines")
            repository = stack.repository(
                "lines",
                {
                    "lines.py": scenarios.LINES.format(
                        marks=str(marks), script="seq -f 'line %.0f of the log' 1000000"
                    )
                },
            )
            repository.push()
            stack.wait_for_run(repository="lines")
            rows.extend(scenarios.million_lines(stack, repository, marks, rounds=rounds))
        if "live" in wanted:
            note("a line from step to browser")
            lines = 50 if quick else 250
            repository = stack.repository("live", {"live.py": live.LIVE.format(lines=lines)})
            rows.append(live.line_to_browser(stack, repository, lines=lines))
        if "lookup" in wanted:
            lines = 1_000_000 if quick else 10_000_000
            size_mb = lines * 100 // 1_000_000
            note(f"a log of {size_mb:,} MB")
            script = f"seq -f '%099.0f' {lines}"
            repository = stack.repository(
                "large", {"large.py": scenarios.LINES.format(marks=str(marks), script=script)}
            )
            repository.push()
            detail = stack.wait_for_run(repository="large", within_seconds=300)
            job = detail["jobs"][0]
            rows.append(
                scenarios.any_line(
                    stack, detail["run"]["runId"], job["jobId"], lines=lines, reads=40, size_mb=size_mb
                )
            )


if __name__ == "__main__":
    sys.exit(main())
