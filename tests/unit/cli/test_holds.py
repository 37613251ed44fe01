"""Which hold `kici approve` and `kici reject` mean (AU-138)."""

from typing import Any

import pytest

from kici.cli.holds import chosen

DEPLOY: dict[str, Any] = {
    "id": "h1",
    "jobName": "deploy",
    "stepName": "apply",
    "stepIndex": 2,
    "reason": "drift",
}
ROLLOUT: dict[str, Any] = {"id": "h2", "jobName": "deploy", "stepName": "rollout", "stepIndex": 3}
WHOLE: dict[str, Any] = {"id": "h3", "jobName": None, "stepName": None, "stepIndex": None, "reason": "fork"}


@pytest.mark.parametrize(
    ("holds", "job", "step", "expected"),
    [
        ([WHOLE], None, None, "h3"),
        ([DEPLOY], None, None, "h1"),
        ([DEPLOY, ROLLOUT], None, "rollout", "h2"),
        ([DEPLOY, ROLLOUT], None, "2", "h1"),
        ([DEPLOY, ROLLOUT], "deploy", "3", "h2"),
    ],
)
def test_the_only_one_or_the_one_by_name_or_index(
    holds: list[dict[str, Any]], job: str | None, step: str | None, expected: str
) -> None:
    """AU-138: people know the name of a step, scripts its index."""
    assert chosen(holds, run="r", job=job, step=step)["id"] == expected


def test_several_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """AU-138: never one at random."""
    with pytest.raises(SystemExit) as ended:
        chosen([DEPLOY, ROLLOUT], run="r", job="deploy", step=None)
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: run r has 2 pending holds; choose with --job and --step:",
        "  h1 deploy › apply: drift",
        "  h2 deploy › rollout: no reason given",
    ]


@pytest.mark.parametrize(("job", "step"), [("build", None), (None, "7"), (None, "None")])
def test_none_that_fits_is_said(
    job: str | None, step: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """AU-138: a hold of the whole run has no step, not one called None."""
    with pytest.raises(SystemExit):
        chosen([DEPLOY, WHOLE], run="r", job=job, step=step)
    assert (
        "run r has no pending hold of job 'build'" in (err := capsys.readouterr().err) or step is not None
    )
    assert step is None or f"at step {step!r}" in err
