"""Steps that people must agree to before they run (AU-60). The host asks; here it is only awaited."""

from kici.runner.activity import Activity
from kici.sdk.definitions import Approval
from kici.sdk.values import duration_ms
from kici.spec.errors import KiciError

DEFAULT_WAIT_MS = 7 * 86_400_000
_SLACK_MS = 60_000  # the host knows the time limit too and says so itself


class NotApprovedError(KiciError):
    """Rejected, or nobody answered in time."""

    code = "not_approved"


def wait_ms(approval: Approval) -> int:
    """How long the answer may take before we stop waiting for the host."""
    limit = DEFAULT_WAIT_MS if approval.timeout is None else duration_ms(approval.timeout)
    return limit + _SLACK_MS


async def request(activity: Activity, approval: Approval, drift: str | None) -> None:
    """Returns when it is approved. Raises NotApprovedError, or what the host refuses with."""
    clauses = [
        {"team": clause.team} if clause.team else {"user": clause.user} for clause in approval.approvers
    ]
    activity.print("Waiting for approval" + (f": {approval.reason}" if approval.reason else ""))
    answer = await activity.services.requests.call(
        "approval.request",
        {
            "stepIndex": activity.index,
            "stepName": activity.name,
            "clauses": clauses,
            "reason": approval.reason,
            "timeoutMs": None if approval.timeout is None else duration_ms(approval.timeout),
            "drift": drift,
        },
    )
    outcome, reason = answer.get("outcome"), answer.get("reason")
    if outcome != "approved":
        raise NotApprovedError(f"approval: {outcome}" + (f" ({reason})" if reason else ""))
    activity.print("Approved" + (f": {reason}" if reason else ""))
