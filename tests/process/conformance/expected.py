"""What each job of the workflows is to come to, on both sides: its status, and parts of its logs, error or outputs."""

Want = str | tuple[str, ...]

RULES: dict[str, dict[str, Want]] = {
    "rules-of-jobs": {
        "pure-yes": "success",
        "pure-no": "skipped",
        "pure-skip": "skipped",
        "pure-raises": ("failed", "rule 'absent' failed: there is no key 'absent'"),
        "impure-yes": "success",
        "impure-no": "skipped",
        "impure-raises": ("failed", "rule 'broken' failed: ValueError: cannot tell"),
        "impure-skip": "skipped",
        "touched": "success",
        "behind-pure": ("skipped", "upstream_unmet: pure-no (skipped)"),
        "behind-impure": "success",
        "behind-raising": "success",
    },
    "rules-of-position": {
        "first (a)": "success",
        "first (b)": "skipped",
        "first (c)": "skipped",
        "last (a)": "skipped",
        "last (b)": "skipped",
        "last (c)": "success",
        "second (a)": "skipped",
        "second (b)": "success",
        "second (c)": "skipped",
        "alone": "success",
        "alone-second": "skipped",
        "by-step (1)": "success",
        "by-step (2)": "success",
    },
    "rules-of-steps": {
        "decided": ("success", "{'yes': 'yes', 'last': 'last'}"),
        "broken-rule": ("failed", "rule 'broken' failed: ValueError: cannot tell"),
        "tolerated": ("success", "{'reached': 'reached'}"),
    },
    "rules-workflow-asks": {
        "__init__rules-workflow-asks": "success",
        "j": "success",
    },
    "rules-workflow-breaks": {
        "__init__rules-workflow-breaks": "failed",
        "j": "skipped",
    },
    "rules-workflow-no": {},
    "rules-workflow-raises": {},
    "rules-workflow-refuses": {
        "__init__rules-workflow-refuses": "success",
        "j": "skipped",
        "k": "skipped",
    },
}
HOOKS: dict[str, dict[str, Want]] = {
    "hooks-failure": {
        "badly": ("failed", "step cleanup failed", "job failure failed", "failed bad outputs {'good': 7}"),
        "__hooks__hooks-failure": ("success", "workflow failure failed", "workflow cleanup failed"),
    },
    "hooks-success": {
        "well": (
            "success",
            "before success because None",
            "step cleanup success",
            "after success",
            "job success success",
            "job cleanup success because None failed None outputs {'good': 7, 'again': 7}",
        ),
        "__hooks__hooks-success": ("success", "workflow success success", "workflow cleanup success"),
    },
    "hooks-that-break": {
        "on-success": ("failed", "still failed because hook on_success failed: RuntimeError: hook broke"),
        "cleanup": "failed",
        "before": "success",
        "after": "success",
        "on-failure": "failed",
        "of-step": (
            "failed",
            "of-step failed because hook cleanup (tidied) failed: RuntimeError: hook broke",
            "not well cleanup failed because hook cleanup (tidied) failed: RuntimeError: hook broke",
        ),
        "slow": ("failed", "hook cleanup failed: timed out after 300ms"),
        "kinds": ("success", "blocking success", "in a hook: success"),
    },
    "hooks-unused": {
        "fine": "success",
        "__hooks__hooks-unused": "skipped",
    },
    "hooks-workflow-breaks": {
        "fine": "success",
        "__hooks__hooks-workflow-breaks": (
            "failed",
            "hook on_success failed: RuntimeError: hook broke",
            "workflow cleanup failed because hook on_success failed: RuntimeError: hook broke",
        ),
    },
}
NEEDS: dict[str, dict[str, Want]] = {
    "needs": {
        "green": "success",
        "red": "failed",
        "grey": "skipped",
        "reads": ("success", "green success {'answer': 42}", "failed None skipped", "42"),
        "undeclared": ("failed", "job 'red' is not declared in `needs`"),
        "nothing-there": ("failed", "job 'red' left no output; it ended as failed"),
        "green-on-success": "success",
        "green-always": "success",
        "green-on-skip": "success",
        "green-on-failure": "skipped",
        "red-on-success": "skipped",
        "red-always": "success",
        "red-on-skip": "skipped",
        "red-on-failure": "success",
        "grey-on-success": "skipped",
        "grey-always": "success",
        "grey-on-skip": "success",
        "grey-on-failure": "skipped",
        "set-of-two": "success",
        "set-unmet": "skipped",
        "cascade": "skipped",
        "cascade-always": "success",
        "one-of-two-unmet": "skipped",
    },
}
MATRICES: dict[str, dict[str, Want]] = {
    "matrix": {
        "plain (a)": "success",
        "plain (b)": "success",
        "plain (3)": ("success", "int:3"),
        "shaped (1, true)": "success",
        "shaped (1, false)": "success",
        "shaped (2, true)": "success",
        "shaped (9, true)": ("success", "['size', 'fast']", "91"),
        "reads": ("success", "('1, true', 11)"),
        "window (1)": "success",
        "window (2)": "success",
        "window (3)": "success",
        "window (4)": ("success", "(3, 4, False, True)"),
        "one-by-one (1)": "success",
        "one-by-one (2)": "success",
        "one-by-one (3)": "success",
        "single (only)": "success",
        "none": "success",
        "floats (1.5)": "success",
        "floats (0.25)": "success",
    },
    "matrix-at-run-time": {
        "discover": "success",
        "__init__matrix-at-run-time__grown": ("success", "asked for main"),
        "grown (x, s)": "success",
        "grown (x, m)": "success",
        "grown (y, s)": ("success", "2 3"),
        "gathers": ("success", "{'x': 's', 'y': 's'} [('x, m', {'x': 'm'})"),
        "__init__matrix-at-run-time__empty": "failed",
        "empty": ("failed", "Matrix expansion failed: job 'empty': its matrix has 0 combinations"),
        "__init__matrix-at-run-time__many": "failed",
        "many": ("failed", "has 257 combinations"),
        "__init__matrix-at-run-time__raising": "failed",
        "raising": ("failed", "Matrix expansion failed: matrix failed: LookupError: no matrix"),
        "behind-raising": "skipped",
        "behind-always": "success",
        "__init__matrix-at-run-time__wrong-kind": "failed",
        "wrong-kind": "failed",
    },
    "matrix-fails": {
        "stops (1)": "success",
        "stops (2)": "failed",
        "stops (3)": ("skipped", "fail_fast"),
        "stops (4)": "skipped",
        "goes-on (1)": "success",
        "goes-on (2)": "failed",
        "goes-on (3)": "success",
        "behind": "skipped",
        "behind-failed": "success",
    },
}
GENERATORS: dict[str, dict[str, Want]] = {
    "generators": {
        "discover": "success",
        "gathers": (
            "success",
            "later [('scan-a', <JobStatus.SUCCESS: 'success'>, {'scan': 'A'})",
            "none []",
        ),
        "__dynamic__generators__0": ("success", "for push main"),
        "once-1": ("success", "hooked success"),
        "once-2": "success",
        "__dynamic__generators__1": ("success", "from a command"),
        "scan-a": "success",
        "scan-b": "success",
        "__dynamic__generators__2": "success",
        "__dynamic__generators__3": "success",
        "spread (1)": "success",
        "spread (2)": "success",
        "ruled": "skipped",
        "joins": "success",
    },
    "generators-that-fail": {
        "plain": "success",
        "behind": ("skipped", "upstream_unmet: raising (failed)"),
        "behind-always": "success",
        "__dynamic__generators-that-fail__0": ("failed", "already"),
        "__dynamic__generators-that-fail__1": "failed",
        "__dynamic__generators-that-fail__2": ("failed", "made 101 jobs; the limit is 100"),
        "__dynamic__generators-that-fail__3": ("failed", ":71:12: error[E603]"),
        "__dynamic__generators-that-fail__4": ("failed", "OSError: no inventory"),
        "__dynamic__generators-that-fail__5": "failed",
        "__dynamic__generators-that-fail__6": ("failed", "circle"),
        "__dynamic__generators-that-fail__7": "failed",
    },
}
OUTPUTS: dict[str, dict[str, Want]] = {
    "outputs": {
        "package": ("success", "'rereads': '1.4.0'"),
        "deploy": ("success", "Built 1.4.0 3"),
        "keeps": ("success", "the token is ***"),
        "opens": ("success", "True 12", "it is ***"),
        "asks-in-vain": "failed",
        "too-many-secrets": "failed",
        "mistyped": ("failed", "field 'size'"),
        "strange": "failed",
        "huge": ("failed", "LimitExceededError"),
    },
}
STEPS: dict[str, dict[str, Want]] = {
    "parallel-steps": {
        "together": ("success", "after the group"),
        "first-failure": "failed",
        "all-the-same": ("failed", "still"),
        "tolerant": "success",
        "ruled": "success",
    },
    "retries": {
        "in-the-end": ("success", "attempt 3", "'third-time': 3"),
        "other-error": ("failed", "not this one"),
        "late-twice": "failed",
    },
    "steps": {
        "all": (
            "success",
            "a b: y z",
            "no $shell",
            "sync blocking",
            "inside",
            "careful",
            "say ***",
            "'shell': 'given'",
        ),
    },
    "steps-that-fail": {
        "fails": ("failed", "exited with code 9"),
        "raises": "failed",
        "forgets": ("failed", "was never awaited"),
        "exits": ("failed", "sys.exit(4)"),
        "tolerated": "success",
        "late": ("failed", "timed out after 300ms"),
        "late-thread": "failed",
        "dies": ("failed", "signal 9"),
        "late-command": "failed",
        "late-job": ("failed", "step tidied", "failed the job timed out after", "tidied failed"),
    },
}
CHECKS: dict[str, dict[str, Want]] = {
    "checks": {
        "idempotent": ("success", "Applied 2", "tidy success", "'again': 'kept'", "nothing"),
        "in-sync": "success",
        "breaks": "failed",
        "in-vain": ("failed", "'never' was not ready after"),
        "plain-only": "success",
    },
}
ENVIRONMENT: dict[str, dict[str, Want]] = {
    "checkout": {
        "without": ("success", "['.kici', 'notes'] False"),
        "with": ("success", "'docs'", "True"),
    },
    "environment": {
        "facts": ("success", "KICI_REF refs/heads/main", "CI", "main"),
        "layers": ("success", "now call", "job file 1 a=b", "file ['other', 'bin']"),
        "pure": ("success", "main push!"),
        "__init__environment__impure": "success",
        "impure": ("success", "main kind.txt"),
        "pure-raises": ("failed", "env failed: there is no key 'absent'"),
        "__init__environment__impure-raises": "failed",
        "impure-raises": ("failed", "env failed: KeyError: 'kind'"),
        "behind": "success",
    },
}
PREPARATION: dict[str, dict[str, Want]] = {
    "caches": {
        "of-job": ("success", "had []", "had False"),
        "by-hand": ("success", "False ", "True"),
        "not-saved": "failed",
        "missing": "failed",
        "prefix": ("success", "had ['file']"),
    },
    "inits": {
        "exports": ("success", "preparing", "1 1+1"),
        "auto": ("success", "nothing to do"),
        "off": "success",
        "fails": ("failed", "init:0 failed: CommandError", "failed CommandError"),
        "late": ("failed", "timed out after 300ms"),
        "wrong-shell": "failed",
    },
}
OTHERS: dict[str, dict[str, Want]] = {
    "events": {
        "emits": "success",
        "refused": ("failed", "larger than 256 KiB"),
        "far": "success",
    },
    "group-asked": {
        "__init__group-asked": ("success", "asking for a group"),
        "j": "success",
    },
    "group-pure": {
        "j": "success",
    },
    "group-pure-raises": {},
    "group-raises": {
        "__init__group-raises": ("failed", "concurrency failed: ValueError: no group"),
        "j": "skipped",
    },
    "turns": {
        "one": "success",
        "two": "success",
        "pure": "success",
        "after": "success",
        "raises": ("failed", "concurrency_group failed"),
    },
}

SECOND_RUN: dict[str, Want] = {
    "of-job": ("success", "had ['file']", "had True"),
    "by-hand": ("success", "True by-hand", "False"),
    "not-saved": "failed",
    "missing": "failed",
    "prefix": ("success", "had ['file']"),
}
_DRIFTED: dict[str, Want] = {
    "idempotent": ("success", "tidy success"),
    "in-sync": "success",
    "breaks": "success",
    "in-vain": "success",
    "plain-only": "success",
}
CHECK_MODES: dict[str, dict[str, Want]] = {
    "check": _DRIFTED,
    "check-fail-on-drift": {**_DRIFTED, "idempotent": "failed", "breaks": "failed"},
}
CALLED: dict[str, Want] = {
    "tells": ("success", "GenericWebhookEvent deploys deploy.done /staging/eu api_key:x-key prod")
}
DISPATCHED: dict[str, Want] = {
    "deploy": ("success", "Wanted(target='north', mode='full', retries=5, really=True)", "dispatch deploy"),
    "edge": "skipped",
}
_STOPPED: dict[str, Want] = {
    "stays": ("cancelled", "finally", "step cancel cancelled", "step cleanup", "job cancel", "job cleanup"),
    "behind": "cancelled",
    "behind-always": "cancelled",
}


def stopped(workflow: str) -> dict[str, Want]:
    """Of a run that was stopped while its first job was at work."""
    hooks = ("success", "workflow cancel cancelled", "workflow cleanup cancelled")
    return {**_STOPPED, f"__hooks__{workflow}": hooks}
