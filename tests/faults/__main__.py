"""`python -m tests.faults [--kills 300] [--seed 1]`."""

import argparse
import asyncio
import sys
import time

from tests.faults.campaign import campaign
from tests.faults.plan import plan


async def _main(seed: int, kills: int) -> int:
    started = time.monotonic()
    async with campaign(seed) as running:
        report = await running.run(
            plan(seed, kills), lambda text: print(f"{time.monotonic() - started:6.0f} s {text}", flush=True)
        )
    print("\n".join(report.lines()))
    return 1 if report.verdict.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return asyncio.run(_main(options.seed, options.kills))


if __name__ == "__main__":
    sys.exit(main())
