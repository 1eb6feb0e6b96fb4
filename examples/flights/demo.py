"""The main job end to end on real flights, on a laptop with a stand-in for AWS; it prints and checks each stage.

./larder demo            runs until Ctrl-C, so that you can send requests
./larder demo --once     ends after the last stage; status 0 only if every step succeeded
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

from examples.flights import stages
from examples.flights.arguments import build_parser
from examples.flights.outputs import build_output
from examples.flights.show import Show
from examples.flights.site import NotAsExpected
from examples.flights.stages import LARDER, Plan
from examples.flights.tokens import open_issuer
from examples.score.__main__ import PROJECT
from infra.bundle import Bundle, build
from infra.local.running import announce
from infra.local.stand_in import AUDIENCE, ISSUER, build_variables, run_stand_in


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    given = build_parser().parse_args(arguments)
    other = "DL" if given.airline != "DL" else "UA"
    plan = Plan(datetime.now(UTC).date(), given.date, given.airline.upper(), other)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["LARDER_PROJECT"] = str(PROJECT)  # the demo is independent of what is in datasets/
    show = Show()
    try:
        _run(plan, show, once=given.once)
    except KeyboardInterrupt:
        show.heading("Interrupted; all processes have ended.")
        return 130
    except NotAsExpected as error:
        show.heading("Not as expected:")
        show.say(str(error))
        return 1
    return 0


def _run(plan: Plan, show: Show, *, once: bool) -> None:
    with ThreadPoolExecutor(1) as pool:
        built = pool.submit(_build_bundles)  # mostly waits for pip, so the model is trained meanwhile
        model = stages.train(show)
        bundles = stages.check_bundles(show, built.result)
    with run_stand_in(LARDER / "ministack.log") as (ministack, athena):
        show.say(f"ministack at {ministack.endpoint} stands in for AWS, DuckDB at {athena.endpoint} for Athena")
        site = stages.deploy_stack(show, ministack, bundles)
        stages.load_lake(show, site, plan)
        days = [plan.today - timedelta(days=ago) for ago in (2, 1, 0)]  # each flight is scored three times
        late, before, output = (build_output(model, day, _same_day(plan, day)) for day in days)
        stages.write_output(show, site, days[1], before)
        issuer = open_issuer(site.client("ssm"), site.stack["KeyStorePath"], ISSUER, AUDIENCE)
        stages.ask(show, site, plan, issuer, before)
        stages.score(show, site, issuer)
        stages.write_next(show, site, days[2], output, before)
        stages.hold(show, site, days[2], output, plan, issuer)
        stages.sweep(show, site, days[0], issuer, late)
        show.heading(f"Every step succeeded, in {show.elapsed:.0f} s.")
        if not once:
            with announce(build_variables(site.client, site.stack, ministack, athena)):
                stages.stay(show, site, plan, issuer, output)


def _build_bundles() -> dict[str, Bundle]:
    return {name: build(name) for name in ("enrich", "serve", "score", "keep")}


def _same_day(plan: Plan, day: date) -> date | None:
    """Return the day whose schedule is used: as many days before `like` as `day` is before today."""
    return plan.like - (plan.today - day) if plan.like else None


if __name__ == "__main__":
    sys.exit(main())
