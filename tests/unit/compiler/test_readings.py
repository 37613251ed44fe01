"""What is read beside the workflow files: helper modules, and fixtures below `tests`."""

from pathlib import Path

from tests.support.repository import Repository


def test_helper_modules_are_read_too(tmp_path: Path) -> None:
    """AU-14, AU-90: steps live in helpers as well; warnings name their file."""
    repository = Repository(tmp_path).write(
        {
            "steps.py": "from kici import *\n@step\nasync def test(ctx: Context) -> None:\n    ctx.sh('pytest')\n"
        }
    )
    repository.workflow("from steps import test\na = job('a', runs_on='x', steps=[test])")
    (told,) = repository.compile().problems
    assert told.text().startswith(
        ".kici/steps.py:4:5: warning[W602]: ctx.sh(...) is not awaited: nothing runs"
    )


def test_a_blocking_context_awaits_nothing(tmp_path: Path) -> None:
    """AU-13: W602 is about coroutines; W601 holds for both."""
    body = """
        @step
        def test(ctx: SyncContext, *, name: str = "x") -> None:
            ctx.sh("pytest")
            ctx.sh(f"echo {name}")
        a = job("a", runs_on="linux", steps=[test])
        """
    assert Repository(tmp_path).workflow(body).codes() == ["W601"]


def test_fixtures_travel_with_the_compilation(tmp_path: Path) -> None:
    """AU-121: their functions are called once, and what they mean is data."""
    fixtures = """
        from kici import *
        one = fixture("one", event=push(branches="main"), secrets={"db": "test"}, branch="main")
        @fixture("two", workflow="ci")
        async def two() -> PullRequestEvent:
            return PullRequestEvent(target_branch="main", payload={"number": 3})
        """
    repository = Repository(tmp_path).write(
        {"tests/events.py": fixtures, "tests/test_unit.py": "import not_installed_anywhere\n"}
    )
    compiled = repository.workflow('a = job("a", runs_on="linux", steps=[build])').compile()
    assert compiled.problems == []
    one, two = compiled.fixtures
    assert (one.id, one.branch, one.secrets, one.source.line) == ("one", "main", {"db": "test"}, 3)
    assert one.trigger is not None
    assert two.event is not None
    assert (two.event.type, two.event.payload, two.workflow) == ("pull_request", {"number": 3}, "ci")
