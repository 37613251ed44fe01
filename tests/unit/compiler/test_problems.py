"""How mistakes are found and told: all at once, at their place, without running what is not asked for."""

import os
import socket
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import kici
from kici.compiler import rendering
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from tests.support.repository import Repository

READ_BY = f"Python {sys.version_info.major}.{sys.version_info.minor} reads it"


def problems_of(repository: Repository) -> list[str]:
    return [problem.text() for problem in repository.compile().problems]


def test_all_mistakes_of_all_files_at_once_at_their_place(tmp_path: Path) -> None:
    repository = Repository(tmp_path).write(
        {
            "workflows/one.py": """\
                from kici import *
                @step(timeout="soon", retry=0)
                async def build(ctx): ...
                one = workflow("one", on=pr(events="opend"), jobs=[
                    job("a", runs_on="x", steps=[build]),
                    job("b", runs_on="x", steps=[build], needs=["aa"], env={"1": "x"}),
                ])
                """,
            "workflows/two.py": """\
                from kici import *
                two = workflow("__two", on=push, jobs=[], timeout=-1)
                """,
        }
    )

    assert "\n".join(problems_of(repository)) + "\n" == dedent(
        """\
        .kici/workflows/one.py:2:2: error[E309]: step 'build': `retry` allows 1 to 100 attempts, not 0
        .kici/workflows/one.py:2:2: error[E309]: step 'build': `timeout`: 'soon' is not a duration; write '500ms', '90s', '10m', '2h' or '1d'
        .kici/workflows/one.py:4:26: error[E406]: pr(): unknown name 'opend' in `events`
          help: did you mean 'opened'?
        .kici/workflows/one.py:6:5: error[E101]: job 'b' needs 'aa', which is not in this workflow
          help: did you mean 'a'?
        .kici/workflows/one.py:6:5: error[E310]: job 'b': '1' is no name for a variable
          help: letters, digits and _, no digit first
        .kici/workflows/two.py:2:7: error[E114]: workflow '__two': no jobs
          help: list at least one job
        .kici/workflows/two.py:2:7: error[E117]: workflow name '__two' starts with `__`, which is reserved for setup rows
          help: choose another name
        .kici/workflows/two.py:2:7: error[E119]: workflow '__two': `on` holds the function push
          help: call it: push()
        .kici/workflows/two.py:2:7: error[E309]: workflow '__two': `timeout`: -1 is outside 0 to 366 days
        .kici/workflows/two.py:2:7: warning[W401]: workflow '__two' has no trigger: no event starts it
          help: add on=[...]
        """
    )


def test_syntax_errors_stop_before_anything_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    repository = Repository(tmp_path).write(
        {"workflows/a.py": f"open({str(mark)!r}, 'w')", "workflows/b.py": "x = 1\ndef broken(:\n    pass\n"}
    )

    assert problems_of(repository) == [
        f".kici/workflows/b.py:2:12: error[E002]: syntax error: invalid syntax\n  help: {READ_BY}"
    ]
    assert not mark.exists()


ONLY_DEFINES = "a workflow file only defines things; do the work in a step"


@pytest.mark.parametrize(
    ("files", "expected", "remedy"),
    [
        (
            {"helper.py": "def f():\n    return 1 / 0\n", "workflows/a.py": "import helper\nhelper.f()\n"},
            ".kici/helper.py:2:1: error[E003]: importing this file raised ZeroDivisionError: division by zero",
            "",
        ),
        (
            {"workflows/a.py": "\nimport not_there.part\n"},
            ".kici/workflows/a.py:2:1: error[E003]: importing this file raised ModuleNotFoundError: No module named 'not_there'",
            "is it installed? run `uv add not_there` in .kici; a helper belongs into .kici itself",
        ),
        (
            {"workflows/a.py": "import ours.part\n", "../src/ours/__init__.py": ""},
            ".kici/workflows/a.py:1:1: error[E003]: importing this file raised ModuleNotFoundError: No module named 'ours'",
            (
                "src/ours is part of this repository and not of the workflows' environment: import it inside a step, or"
                " declare it as a path dependency in .kici/pyproject.toml"
            ),
        ),
        (
            {"workflows/a.py": "from kici import worfklow\n"},
            ".kici/workflows/a.py:1:1: error[E003]: importing this file raised ImportError: cannot import name 'worfklow' from 'kici' ({kici})",
            "did you mean `workflow`?",
        ),
        (
            {"workflows/a.py": "from kici import push\npush(branch='main')\n"},
            ".kici/workflows/a.py:2:1: error[E003]: importing this file raised TypeError: push() got an unexpected keyword argument 'branch'",
            "did you mean `branches`?",
        ),
        (
            {"helper.py": "if True\n    pass\n", "workflows/a.py": "import helper\n"},
            ".kici/helper.py:1:8: error[E002]: syntax error: expected ':'",
            READ_BY,
        ),
        (
            {"workflows/a.py": "raise SystemExit(3)"},
            ".kici/workflows/a.py:1:1: error[E003]: importing this file raised SystemExit: 3",
            ONLY_DEFINES,
        ),
        (
            {"workflows/a.py": "import os\nos._exit(7)"},
            ".kici/workflows/a.py:1:1: error[E003]: importing this file ended the interpreter with exit code 7",
            ONLY_DEFINES,
        ),
        (
            {"workflows/a.py": "import os\nos.kill(os.getpid(), 9)"},
            ".kici/workflows/a.py:1:1: error[E003]: importing this file ended the interpreter with signal 9",
            ONLY_DEFINES,
        ),
    ],
    ids=[
        "helper",
        "missing-module",
        "own-module",
        "kici-name",
        "keyword",
        "helper-syntax",
        "exit",
        "hard-exit",
        "signal",
    ],
)
def test_imports_that_fail(tmp_path: Path, files: dict[str, str], expected: str, remedy: str) -> None:
    (problem,) = problems_of(Repository(tmp_path).write(files))

    whole = expected.replace("{kici}", kici.__file__ or "")
    assert problem == (f"{whole}\n  help: {remedy}" if remedy else whole)


def test_one_broken_file_does_not_hide_another(tmp_path: Path) -> None:
    repository = Repository(tmp_path).write({"workflows/a.py": "1 / 0", "workflows/b.py": "x = 1"})

    assert repository.codes() == ["E003", "E004"]


def test_a_slow_import_is_named_and_all_it_started_dies(tmp_path: Path) -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    port = listening.getsockname()[1]
    connect = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.recv(1)"
    repository = Repository(tmp_path).write(
        {
            "workflows/fine.py": "",
            "workflows/slow.py": f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {connect!r}])",
        }
    )

    problems = repository.compile(import_limit_s=3).problems

    assert [(problem.code, problem.message) for problem in problems] == [
        ("E005", "importing this file took longer than 3s")
    ]
    assert problems[0].source == SourceLocation(file=".kici/workflows/slow.py", line=1)
    listening.settimeout(10)
    connection, _ = listening.accept()
    connection.settimeout(10)
    assert connection.recv(1) == b""  # end of file: the grandchild is gone
    connection.close()
    listening.close()


def test_secrets_stay_out_and_prints_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "hunter2")
    monkeypatch.setenv("KICI_TOKEN", "hunter2")
    repository = Repository(tmp_path).workflow(
        """
        import os, sys
        print("on stdout", sorted(os.environ))
        print("on stderr", file=sys.stderr)
        os.write(1, b'{"t":"reply"}')
        a = job("a", runs_on="x", steps=[build])
        """
    )

    compiled = repository.compile()

    assert compiled.errors == []
    assert "on stdout" in compiled.output
    assert "on stderr" in compiled.output
    assert "PATH" in compiled.output
    assert "TOKEN" not in compiled.output


def test_import_works_in_the_repository_and_leaves_nothing(tmp_path: Path) -> None:
    repository = Repository(tmp_path).write({"lib/__init__.py": "X = 'x'"})
    repository.workflow("from lib import X\na = job('a', runs_on=X, steps=[build])")

    assert repository.compile().errors == []
    assert [path for path in tmp_path.rglob("*") if "__pycache__" in path.parts] == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ctx.sh('ls')", "W602"),
        ("ctx.run('ls')", "W602"),
        ("await ctx.sh('ls')", None),
        ("task = ctx.sh('ls')", None),
        ("await ctx.sh(f'ls {x}')", "W601"),
        ("await ctx.sh(f'ls')", None),
        ("await ctx.sh('ls %s' % x)", "W601"),
        ("await ctx.sh('ls {}'.format(x))", "W601"),
        ("await ctx.sh('ls ' + x)", "W601"),
        ("await ctx.sh('ls ' + '-l')", None),
        ("await ctx.sh(x)", None),
        ("await ctx.sh('ls', f=f'{x}')", None),
        ("await other.sh(f'{x}')", None),
    ],
)
def test_what_reading_a_step_shows(tmp_path: Path, line: str, code: str | None) -> None:
    body = f"@step\nasync def f(ctx: Context, x: str = '', other: Context = None) -> None:\n    {line}\n"
    repository = Repository(tmp_path).workflow(body + "a = job('a', runs_on='x', steps=[f])")

    assert repository.codes() == ([code] if code else [])


def test_contexts_by_other_names_and_in_inner_functions(tmp_path: Path) -> None:
    repository = Repository(tmp_path).workflow(
        """
        import kici
        @step
        async def f(c: kici.Context) -> None:
            async def inner():
                c.sh("inner")
            await inner()
        def hook(c: "HookContext") -> None:
            c.run("hook")
        def unrelated(c: str) -> None:
            c.run("fine")
        a = job('a', runs_on='x', steps=[f], cleanup=hook)
        """
    )

    assert repository.codes() == ["W602", "W602"]


@pytest.mark.parametrize(
    ("signature", "steps", "codes"),
    [
        ("ctx", "f", []),
        ("ctx, *, target", "f", ["E118"]),
        ("ctx, *, target='x'", "f", []),
        ("ctx, target", "f", ["E118"]),
        ("ctx, target='x'", "f", []),
        ("ctx, *, target", "f.bind(target=1)", []),
        ("ctx, *, target", "f.bind(tarjet=1)", ["E118", "E118"]),
        ("ctx, **kwargs", "f.bind(anything=1)", []),
        ("*args, **kwargs", "f", []),
        ("", "f", ["E118"]),
        ("ctx, *, python", "f", []),
        ("ctx, *, python, os", "f", ["E118"]),
    ],
)
def test_parameters_of_steps(tmp_path: Path, signature: str, steps: str, codes: list[str]) -> None:
    body = f"@step\ndef f({signature}): ...\na = job('a', runs_on='x', matrix={{'python': [1]}}, steps=[{steps}])"

    assert Repository(tmp_path).workflow(body).codes() == codes


@pytest.mark.parametrize(
    ("annotation", "fine"),
    [
        ("None", True),
        ("int", True),
        ("list[Point] | None", True),
        ("Point", True),
        ("'Point'", True),
        ("Typed", True),
        ("Colour", True),
        ("datetime.datetime", True),
        ("object", False),
        ("Path", False),
        ("Opaque", False),
        ("list[Opaque]", False),
        ("'Missing'", False),
        ("Point | Other", False),
    ],
)
def test_result_types(tmp_path: Path, annotation: str, fine: bool) -> None:
    body = f"""
import datetime, enum
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
@dataclass
class Point:
    x: int
@dataclass
class Other:
    y: int
class Typed(TypedDict):
    x: int
class Colour(enum.Enum):
    RED = "red"
class Opaque: ...
@step
async def f(ctx: Context) -> {annotation}: ...
a = job('a', runs_on='x', steps=[f])
"""
    assert Repository(tmp_path).workflow(body).codes() == ([] if fine else ["E601"])


def test_circles(tmp_path: Path) -> None:
    repository = Repository(tmp_path).workflow(
        """
        a = job("a", runs_on="x", steps=[build], needs=["c"])
        b = job("b", runs_on="x", steps=[build], needs=["a"])
        c = job("c", runs_on="x", steps=[build], needs=["b", "d"])
        d = job("d", runs_on="x", steps=[build], needs=["e"])
        e = job("e", runs_on="x", steps=[build], needs=["d"])
        f = job("f", runs_on="x", steps=[build], needs=["a"])
        """
    )

    assert [problem.message for problem in repository.compile().errors] == [
        "jobs need each other in a circle: a → c → b → a",
        "jobs need each other in a circle: d → e → d",
    ]


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ("matrix=list(range(256))", []),
        ("matrix=list(range(257))", ["E104"]),
        ("matrix=['a'], exclude=[{'value': 'a'}]", ["E104"]),
        ("matrix=['a'], exclude=[{'value': 'a'}], include=[{'value': 'b'}]", []),
        ("matrix=[1, '1']", ["E104"]),
        ("matrix={'a': range(3)}", []),
        ("matrix='abc'", ["E105"]),
        ("matrix={'a': 'abc'}", ["E105"]),
        ("matrix={'a': [None]}", ["E105"]),
        ("matrix=[float('nan')]", ["E105"]),
        ("matrix={}", ["E105"]),
        ("include=[{'a': 1}]", ["E113"]),
    ],
)
def test_matrices(tmp_path: Path, options: str, codes: list[str]) -> None:
    repository = Repository(tmp_path).workflow(f"a = job('a', runs_on='x', steps=[build], {options})")

    assert repository.codes() == codes


@pytest.mark.parametrize(
    ("label", "codes"),
    [
        ("re.compile('^gpu-[0-9]+$')", []),
        ("re.compile('(?<=a)b')", ["E204"]),
        (r"re.compile(r'(a)\1')", ["E204"]),
        ("re.compile('a b', re.VERBOSE)", ["E204"]),
        ("'gpu-{1,2}'", []),
        ("''", ["E201"]),
        ("'!only-exclusions'", ["E201"]),
        ("{'labels': 'x', 'pick': 'any'}", []),
        ("{'label': 'x'}", ["E119"]),
        ("5", ["E119"]),
        ("Runner(labels=['a', 'b'], exclude='b')", ["E203"]),
    ],
)
def test_labels(tmp_path: Path, label: str, codes: list[str]) -> None:
    assert Repository(tmp_path).workflow(f"a = job('a', runs_on={label}, steps=[build])").codes() == codes


def test_warnings_do_not_prevent_a_lock_file(tmp_path: Path) -> None:
    compiled = (
        Repository(tmp_path)
        .workflow("ci = workflow('ci', jobs=[job('a', runs_on='x', steps=[build])])")
        .compile()
    )

    assert [problem.code for problem in compiled.problems] == ["W401"]
    assert compiled.data is not None


def test_files_touched_by_helpers_and_imports(tmp_path: Path) -> None:
    repository = Repository(tmp_path).write(
        {
            "versions.txt": "1",
            "helper.py": "from pathlib import Path\nX = Path(__file__).with_name('versions.txt').read_text()",
        }
    )
    repository.workflow("import json, helper\na = job('a', runs_on='x', steps=[build])")

    (problem,) = repository.compile().problems
    assert problem.text().startswith(
        ".kici/helper.py:2:1: warning[W603]: importing this file opened a file"
    )


def test_renderings() -> None:
    problem = Problem(
        code="E102",
        message="100% round: a → b",
        help="drop one",
        source=SourceLocation(file=".kici/a,b.py", line=3, column=7),
    )

    assert (
        rendering.as_text(problem) == ".kici/a,b.py:3:7: error[E102]: 100% round: a → b\n  help: drop one"
    )
    assert (
        rendering.as_annotation(problem)
        == "::error file=.kici/a%2Cb.py,line=3,col=7,title=E102::100%25 round: a → b%0Adrop one"
    )
    assert rendering.as_object(problem) == {
        "code": "E102",
        "severity": "error",
        "message": "100% round: a → b",
        "help": "drop one",
        "file": ".kici/a,b.py",
        "line": 3,
        "column": 7,
    }
    bare = Problem(code="W401", message="no trigger", severity="warning")
    assert rendering.as_annotation(bare) == "::warning title=W401::no trigger"
    assert rendering.summary([problem, problem, bare]) == "2 errors, 1 warning"


def test_unreadable_folder(tmp_path: Path) -> None:
    (problem,) = Repository(tmp_path).compile().problems
    assert (
        problem.text() == "error[E001]: .kici/workflows: No such file or directory\n  help: run `kici init`"
    )
    assert not os.path.exists(tmp_path / ".kici")


def test_mistakes_in_the_graph_and_in_triggers_come_together(tmp_path: Path) -> None:
    """AU-90: all errors that an import shows, whichever part of the compiler finds them."""
    body = """
        class Deploy(Inputs):
            target: str
        a = job("a", runs_on="linux", steps=[build], needs=["b", group("reprots")])
        @dynamic_jobs("reports")
        async def reports(g: GenerateContext) -> list[MultiJob]:
            return []
        on = [schedule(cron="61 * * * *", timezone="Mars", inputs=Deploy), comment(body_match="/(?=x)/")]
        ci = workflow("ci", on=on, jobs=[a, reports])
        """
    errors = Repository(tmp_path).workflow(body).compile().errors
    assert [(problem.code, problem.source and problem.source.line) for problem in errors] == [
        ("E101", 15),
        ("E111", 15),
        ("E401", 19),
        ("E402", 19),
        ("E404", 19),
        ("E204", 19),
    ]
    assert "did you mean 'reports'?" in errors[1].help


@pytest.mark.parametrize(
    ("trigger", "option"),
    [
        ("kici_event('plain-*')", "name"),
        ("generic_webhook(source='s', events=['deploy.*', 'done'])", "events"),
        ("generic_webhook(source='alerts-?')", "source"),
        ("generic_webhook(source='s', path='/hooks/**')", "path"),
        ("webhook(events='issue*')", "events"),
        ("webhook(events='issues', actions='!closed')", "actions"),
        ("dispatch(types='deploy-{a,b}')", "types"),
        ("workflow_run(workflows='build-*')", "workflows"),
        ("workflow_complete(name='ci-*')", "name"),
        ("job_complete(workflow='ci', job='test-[12]')", "job"),
    ],
)
def test_a_pattern_where_names_are_matched_exactly(tmp_path: Path, trigger: str, option: str) -> None:
    """AU-76: what compiles clean and never starts anything is said at compile time."""
    body = f"a = job('a', runs_on='linux', steps=[build])\nci = workflow('ci', on={trigger}, jobs=[a])"
    found = Repository(tmp_path).workflow(body).compile().problems
    (warning,) = (problem for problem in found if problem.severity == "warning")
    assert warning.code == "W402"
    assert f"`{option}` can never match: " in warning.message
    assert "matched exactly" in (warning.help or "")


@pytest.mark.parametrize(
    "trigger",
    [
        "kici_event('plain', source='acme/*')",
        "schedule(cron='*/5 * * * *')",
        "comment(body_match='/deploy.*/i')",
        "push(branches=['release/*', '!release/old-*'], description='all of them? yes!')",
        "status(contexts='ci/*')",
        "kici_event('plain', match={'$.name': '/a.*/'})",
    ],
)
def test_patterns_stand_where_patterns_may(tmp_path: Path, trigger: str) -> None:
    body = f"a = job('a', runs_on='linux', steps=[build])\nci = workflow('ci', on={trigger}, jobs=[a])"
    found = Repository(tmp_path).workflow(body).compile().problems
    assert [problem.text() for problem in found if problem.severity != "note"] == []


def test_a_job_may_not_be_called_like_a_child_of_another(tmp_path: Path) -> None:
    """AU-10, AU-40, AU-90: names are compared as they will run."""
    repository = Repository(tmp_path).workflow(
        """\
j = job("j", runs_on="x", steps=[build], matrix=[1, 2])
other = job("j (2)", runs_on="x", steps=[build])
"""
    )
    (found,) = repository.compile().problems
    assert (found.code, found.message) == (
        "E106",
        "job 'j (2)' and a child of job 'j' are both named 'j (2)'",
    )


def test_what_cannot_name_a_job_is_told_value_by_value(tmp_path: Path) -> None:
    """AU-10, AU-40, AU-90"""
    repository = Repository(tmp_path).workflow(
        """\
a = job("a", runs_on="x", steps=[build], matrix={"x": ["é\\n", "", "a" * 120, 2**70], "": [1], "a b": [2], 5: [1]})
b = job("b", runs_on="x", steps=[build], matrix={"one": ["a" * 60], "two": ["b" * 60]})
"""
    )
    told = [(found.code, found.message.partition(": ")[2]) for found in repository.compile().problems]
    assert sorted(told) == sorted(
        [
            ("E105", "matrix dimension 'x': the value 'é\\n' has control characters or blanks around it"),
            ("E105", "matrix dimension 'x': the value '' is empty"),
            ("E105", f"matrix dimension 'x': the value '{'a' * 59} has 120 characters; 100 are allowed"),
            ("E105", "matrix dimension 'x': the value 1180591620717411303424 has more than 64 bits"),
            *(
                (
                    "E105",
                    f"matrix dimension {key} is no word: letters, digits and _ . - are allowed, a letter or _ first",
                )
                for key in ("''", "'a b'", "5")
            ),
            (
                "E104",
                f"the name {'b (' + 'a' * 37 + '…'!r} of a combination of its matrix has 126 characters; 100 are allowed",
            ),
        ]
    )


def test_all_mistakes_of_one_element_at_once(tmp_path: Path) -> None:
    """AU-90: what is wrong with an option hides nothing else, and is not told twice."""
    repository = Repository(tmp_path).write(
        {
            "workflows/ci.py": """\
                import threading
                from kici import *
                from kici import step
                @step(retry=Retry(attempts=0, delay="x", backoff="linear"),
                      cache=Cache(key="", paths=["/etc", "../x"]))
                async def build(ctx) -> list[threading.Thread]: ...
                one = job("one", runs_on="x", steps=build)
                two = job("two", runs_on="x", steps=[build])
                a = workflow("a", on="push", jobs=one)
                b = workflow("b", on=["pr"], jobs=["two"])
                c = workflow("c", on=push(branches=5), jobs=[two])
                """
        }
    )
    told = "\n".join(problems_of(repository)).replace(".kici/workflows/ci.py:", "")
    assert told + "\n" == dedent(
        """\
        4:2: error[E119]: step 'build': `retry`: unknown backoff 'linear'
          help: exponential or fixed
        4:2: error[E307]: step 'build': `cache`: '../x' leaves its folder
          help: use paths below the repository or, for `paths`, below ~
        4:2: error[E307]: step 'build': `cache`: '/etc' is absolute
          help: use paths below the repository or, for `paths`, below ~
        4:2: error[E307]: step 'build': `cache`: the key is empty
          help: write text, or cache_key('prefix', files=[...])
        4:2: error[E309]: step 'build': `retry.delay`: 'x' is not a duration; write '500ms', '90s', '10m', '2h' or '1d'
        4:2: error[E309]: step 'build': `retry` allows 1 to 100 attempts, not 0
        4:2: error[E601]: job 'two': step 'build' returns list[threading.Thread], which cannot travel as JSON: Thread is no type that JSON knows
          help: return text, numbers, lists, mappings, dataclasses, TypedDicts or msgspec Structs
        7:7: error[E119]: job 'one': `steps` is a list, not Step
          help: write steps=[...]
        9:5: error[E119]: workflow 'a': `jobs` is a list of jobs, not MultiJob
          help: put it into brackets: jobs=[...]
        9:5: error[E119]: workflow 'a': `on` holds the text 'push'
          help: import the trigger and write on=push()
        9:5: warning[W401]: workflow 'a' has no trigger: no event starts it
          help: add on=[...]
        10:5: error[E119]: workflow 'b': `jobs` holds the text 'two'
          help: list the job itself: what job(...) returned
        10:5: error[E119]: workflow 'b': `on` holds the text 'pr'
          help: import the trigger and write on=pr()
        10:5: warning[W401]: workflow 'b' has no trigger: no event starts it
          help: add on=[...]
        11:22: error[E119]: push(): `branches` is a pattern, a regex or a list of them, not int
          help: write branches='…' or branches=['…', '!…']
        """
    )
