"""Pure functions as data: what counts as pure, that the interpreter agrees with Python, and that it always ends."""

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kici.engine.expressions import ExpressionError, evaluate
from kici.engine.scopes import concurrency_scope, event_scope, rule_scope
from kici.sdk.fields import CONCURRENCY, EVENT, RULE
from kici.sdk.purity import examine
from kici.spec.events import Event

# What the interpreter refuses on purpose although Python would go on (module docstring).
NARROWER = (
    "is wanted",
    "is no key",
    "grew beyond",
    "formatted with %",
    "no real number",
    "no method",
    "steps",
)

_numbers = itertools.count()


class Record(dict[str, Any]):
    """As the SDK's payloads: attributes are keys, absent ones None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


ARGUMENT = Record(
    text="release/1.2",
    empty="",
    number=7,
    negative=-3,
    real=2.5,
    yes=True,
    no=False,
    nothing=None,
    words=["a", "bb", "release"],
    record=Record(text="inner", number=0, deep=Record(draft=True)),
)


def load(source: str, folder: Path) -> dict[str, Any]:
    path = folder / f"pure_{next(_numbers)}.py"
    path.write_text(source, "utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def function(source: str, folder: Path) -> Callable[[Any], Any]:
    return load(f"f = {source}" if source.startswith("lambda") else source, folder)["f"]


def plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [plain(entry) for entry in value]
        case _:
            return value


def held_equal(fn: Callable[[Any], Any]) -> None:
    """The interpreter gives what Python gives, or both refuse."""
    found = examine(fn)
    assert found.pure, found.reason
    expected = outcome(lambda: plain(fn(ARGUMENT)))
    actual = outcome(lambda: evaluate(found.tree, ARGUMENT))
    if isinstance(expected, Exception):
        assert isinstance(actual, ExpressionError)
    elif isinstance(actual, ExpressionError):
        assert any(reason in str(actual) for reason in NARROWER), actual
    else:
        assert repr(actual) == repr(expected)  # types included; nan is nan


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


ATOMS = st.sampled_from(
    [
        *(f"e.{name}" for name in ARGUMENT),
        *("e['text']", "e['absent']", "e.absent", "e.record['deep'].draft", "e.record.get('text', 1)"),
        *(
            "None",
            "True",
            "False",
            "0",
            "3",
            "-2",
            "1.5",
            "''",
            "'re'",
            "'é/x'",
            "[]",
            "()",
            "{'k': e.text}",
        ),
    ]
)


def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])
    compare = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"])
    one = st.sampled_from(
        [
            *("(not {})", "(-{})", "({} is None)", "({} is not True)", "[{}]", "({},)", "{{'k': {}}}"),
            *(
                "str({})",
                "int({})",
                "float({})",
                "bool({})",
                "len({})",
                "max({})",
                'f"<{}>"',
                'f"{{{}!r:>8}}"',
            ),
            *(
                "{}.lower()",
                "{}.strip('r')",
                "{}.split('/')",
                "{}.isdigit()",
                "{}.title()",
                "{}.splitlines()",
            ),
            *("{}[0]", "{}[-1]", "{}[1:]", "{}[::-1]", "{}['text']", "{}.number", "'-'.join({})"),
            *("{}.startswith(('re', 'x'))", "{}.partition('/')", "{}.zfill(9)", "{}.removeprefix('re')"),
        ]
    )
    two = st.sampled_from(
        [
            *(
                "({} and {})",
                "({} or {})",
                "[{}, {}]",
                "min({}, {})",
                "{}.replace('e', {})",
                "{}.count({})",
            ),
            *("{}[{}]", "{}.get({})", "{}.startswith({})", "{}.find({})", "{}.rjust({})"),
        ]
    )
    return st.one_of(
        st.builds(lambda shape, a: shape.format(a), one, inner),
        st.builds(lambda shape, a, b: shape.format(a, b), two, inner, inner),
        st.builds(lambda a, op, b: f"({a} {op} {b})", inner, binary, inner),
        st.builds(lambda a, op, b: f"({a} {op} {b})", inner, compare, inner),
        st.builds(lambda a, b, c, d: f"({a} < {b} <= {c} != {d})", inner, inner, inner, inner),
        st.builds(lambda a, test, b: f"({a} if {test} else {b})", inner, inner, inner),
    )


EXPRESSIONS = st.recursive(ATOMS, wider, max_leaves=12)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=EXPRESSIONS)
def test_the_interpreter_and_python_agree(source: str, tmp_path: Path) -> None:
    """AU-41: what runs on the orchestrator is what the author would have seen in Python."""
    try:
        fn = function(f"lambda e: ({source})", tmp_path)
    except (SyntaxError, SyntaxWarning):  # 1[0] and the like: Python warns of it itself
        return
    if examine(fn).reason == "it formats text with %, write an f-string":
        return
    held_equal(fn)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(EXPRESSIONS, min_size=5, max_size=5),
    unset=st.booleans(),
    op=st.sampled_from(["+", "*", "-"]),
)
def test_statements_agree_too(parts: list[str], unset: bool, op: str, tmp_path: Path) -> None:
    """AU-41: local assignments and conditionals, an unset variable among them."""
    first, test, second, other, last = parts
    source = f'''
def f(e):
    """What it is for."""
    {"pass" if unset else f"x = {first}"}
    y: object = {second}
    if {test}:
        x = {second}
        x {op}= {other}
    elif {other}:
        return {last}
    else:
        pass
    return [x, y]
'''
    try:
        fn = function(source, tmp_path)
    except (SyntaxError, SyntaxWarning):
        return
    if examine(fn).reason == "it formats text with %, write an f-string":
        return
    held_equal(fn)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("lambda e: open(e)", "it calls open"),
        ("lambda e: e.text.encode()", "it calls e.text.encode"),
        ("lambda e: e.__class__", "it reads the private attribute '__class__'"),
        ("lambda e: [x for x in e.words]", "it uses list comp"),
        ("lambda e, n=1: n", "it does not take exactly one parameter"),
        ("lambda *e: 1", "it does not take exactly one parameter"),
        ("lambda e: other", "it uses 'other', which is not its parameter"),
        ("lambda e: e.words is e.words", "it compares identities"),
        ("lambda e: '%s' % e.text", "it formats text with %, write an f-string"),
        ("lambda e: f'{e.number:>99999}'", "its format is wider than 1000"),
        ("lambda e: e.text.split(sep='/')", "it calls with keywords or *"),
        ("lambda e: e.number | 1", "it uses a bit operator"),
        ("lambda e: 9007199254740993", "it holds the literal 9007199254740993"),
        ("lambda e: e.record.items", "it reads 'items', which bodies of events have themselves"),
        ("async def f(e): return 1", "it is async or a generator"),
        ("def f(e):\n    for x in e.words: pass", "it uses a statement of kind for"),
        ("def f(e):\n    global g\n    g = 1", "it uses a statement of kind global"),
        ("def f(e):\n    e = 1\n    return e", "it assigns to its parameter"),
        ("def f(e):\n    match e:\n        case _: return 1", "it uses `match`"),
        ("def f(e):\n    a, b = e.words\n    return a", "it assigns to more than one plain name"),
        ("def len(x): return 1\ndef f(e): return len(e)", "it calls len"),
        ("f = len", "a builtin_function_or_method is no plain function"),
        ("lambda e: " + "not " * 400 + "e", "it is nested too deeply"),
    ],
)
def test_why_a_function_is_not_pure(source: str, reason: str, tmp_path: Path) -> None:
    """AU-41, AU-42: anything else has a reason, which W301 shows."""
    assert examine(function(source, tmp_path)).reason == reason


def test_functions_are_found_by_place_and_not_by_name(tmp_path: Path) -> None:
    """AU-41: two lambdas on a line, one in another, two functions of one name."""
    names = load(
        "fs = [lambda e: 1, lambda e: 2, (lambda e: e.a if e.b else 3), lambda e: None, lambda e: True, lambda e: 1.0]\n"
        "outer = lambda e: (lambda e: 5)\n"
        "def same(e): return 'first'\n"
        "kept = same\n"
        "def same(e): return 'second'\n"
        "def mark(fn): return fn\n"
        "@mark\n"
        "def decorated(e): return e.text\n"
        "long = lambda e: \\\n    e.number\n",
        tmp_path,
    )
    assert [examine(fn).tree for fn in names["fs"][:2]] == [1, 2]
    assert [repr(examine(fn).tree) for fn in names["fs"][3:]] == ["None", "True", "1.0"]
    assert examine(names["fs"][2]).tree == ["if", ["attr", ["arg"], "b"], ["attr", ["arg"], "a"], 3]
    assert examine(names["outer"]).reason == "it uses lambda"
    assert examine(names["outer"](None)).tree == 5
    assert [examine(names[name]).tree for name in ("kept", "same")] == ["first", "second"]
    assert examine(names["decorated"]).tree == ["attr", ["arg"], "text"]
    assert examine(names["long"]).tree == ["attr", ["arg"], "number"]
    shadowing = "def make():\n    max = min\n    return lambda e: max(e.number, 1)\nfn = make()\n"
    assert examine(load(shadowing, tmp_path)["fn"]).reason == "it calls max"
    code = compile("lambda e: 1", "<string>", "eval")
    assert examine(eval(code)).reason == "its source is not in a file"


GROWING = [
    "do",
    ["set", "x", "aaaaaaaaaaaaaaaa"],
    *[["set", "x", ["binary", "+", ["var", "x"], ["var", "x"]]]] * 40,
]
SHARED = [
    "do",
    ["set", "x", ["list", 1]],
    ["set", "y", ["list", 1]],
    *[["set", name, ["list", ["var", name], ["var", name]]] for _ in range(60) for name in "xy"],
]

LONG = [
    "do",
    ["set", "x", ["binary", "*", "a", 1 << 20]],
    ["set", "t", ["binary", "*", ["tuple", "b"], 1 << 20]],
]


@pytest.mark.parametrize(
    "tree",
    [
        [*LONG, ["return", ["text", *[["var", "x"]] * 8_000]]],
        [*LONG, *[["set", "y", ["method", "isalpha", ["var", "x"]]]] * 50],
        [*LONG, *[["set", "y", ["method", "startswith", "z", ["var", "t"]]]] * 50],
        [*LONG, ["return", ["index", ["arg"], ["var", "x"]]]],
        [*GROWING, ["return", ["var", "x"]]],
        [*SHARED, ["return", ["compare", ["var", "x"], "==", ["var", "y"]]]],
        [*SHARED, ["return", ["compare", ["var", "x"], "in", ["list", ["var", "y"]]]]],
        [*SHARED, ["return", ["compare", ["var", "x"], "<", ["var", "y"]]]],
        [*SHARED, ["return", ["dict", [["var", "x"], 1]]]],
        [*SHARED, ["return", ["var", "x"]]],
        [*SHARED, ["return", ["call", "str", ["var", "x"]]]],
        ["binary", "**", 10, 100_000_000],
        ["binary", "*", "a", 1 << 40],
        ["binary", "*", 1 << 40, ["list", 1, 2]],
        ["method", "replace", ["binary", "*", "a", 100_000], "a", ["binary", "*", "b", 100_000]],
        ["method", "zfill", "1", 1 << 40],
        ["method", "join", ["binary", "*", "a", 10_000], ["binary", "*", ["list", "b"], 10_000]],
        ["format", 1, "", ">999999999"],
        ["do", *[["set", "x", 1]] * 20_000],
        ["not"] * 3,
        ["unknown", 1],
        ["method", "__class__", "x"],
        ["method", "format", "{0.__class__}", 1],
        ["attr", "text", "upper"],
        ["call", "open", "/etc/passwd"],
        ["index", ["arg"], ["list", 1]],
        ["var", "never"],
        {"op": "arg"},
        [["arg"]],
        [],
    ],
    ids=lambda tree: str(tree)[:40],
)
def test_every_tree_ends_in_bounds(tree: object) -> None:
    """AU-41: total and step-limited, whatever a lock file holds; nothing outside the language is reached."""
    with pytest.raises(ExpressionError) as refused:
        evaluate(tree, ARGUMENT)
    assert len(str(refused.value)) < 1_000


@settings(max_examples=200, deadline=None)
@given(
    tree=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.builds(
                lambda op, rest: [op, *rest],
                st.sampled_from(
                    ["arg", "var", "attr", "index", "slice", "and", "compare", "binary", "call", "do", "if"]
                ),
                st.lists(inner | st.sampled_from(["+", "==", "in", "len", "str", "text"]), max_size=4),
            )
        ),
        max_leaves=15,
    )
)
def test_anything_at_all_is_a_value_or_an_expression_error(tree: object) -> None:
    """AU-41: a corrupt lock file fails the job, never the orchestrator."""
    try:
        evaluate(tree, ARGUMENT)
    except ExpressionError:
        pass


def test_scopes_answer_what_authors_write(tmp_path: Path) -> None:
    """AU-34, AU-35, AU-59: the names of the SDK's contexts."""
    event = Event(
        type="pull_request",
        action="opened",
        target_branch="main",
        changed_files=["docs/a.md"],
        payload={"pull_request": {"draft": False, "number": 3}},
    )
    on_rule = examine(
        function(
            "lambda ctx: ctx.event.type == 'pull_request' and not ctx.event.payload.pull_request.draft"
            " and 'docs/a.md' in ctx.changed_files and ctx.env.get('A', 'x') == 'x'"
            " and ctx.fanout.first and ctx.fanout.last and ctx.dispatch_inputs['n'] == 1",
            tmp_path,
        )
    )
    assert evaluate(on_rule.tree, rule_scope(event, dispatch_inputs={"n": 1})) is True
    last = examine(function("lambda ctx: ctx.fanout.last and ctx.fanout.index == 2", tmp_path))
    assert evaluate(last.tree, rule_scope(event, fanout_index=2, fanout_total=3)) is True
    on_event = examine(
        function("lambda event: f'{event.target_branch}-{event.payload.pull_request.number}'", tmp_path)
    )
    assert evaluate(on_event.tree, event_scope(event)) == "main-3"
    group = examine(function("lambda c: f'{c.workflow}:{c.ref}:{c.event.action}'", tmp_path))
    assert evaluate(group.tree, concurrency_scope(event, workflow="ci", ref="main")) == "ci:main:opened"


@pytest.mark.parametrize(
    ("source", "reason", "help"),
    [
        (
            "lambda c: c.event.target_brnch == 'main'",
            "the event has no 'target_brnch'",
            "did you mean 'target_branch'?",
        ),
        ("lambda c: c.evnt.action", "the context of a rule has no 'evnt'", "did you mean 'event'?"),
        ("lambda c: c.fanout.frst", "fanout has no 'frst'", "did you mean 'first'?"),
        (
            "lambda c: c.env.CI",
            "env has no 'CI'",
            "its keys are no attributes: write ['CI'] or .get('CI')",
        ),
        (
            "lambda c: c.event['action']",
            "the event is no mapping",
            "it has attributes: write .name, not ['name']",
        ),
        (
            "lambda c: c.event.get('action')",
            "the event has no method 'get'",
            f"there are: {', '.join(sorted(Event.__struct_fields__))}",
        ),
    ],
)
def test_unknown_fields_are_no_question_of_purity(
    source: str, reason: str, help: str, tmp_path: Path
) -> None:
    """AU-34, AU-41: what Python would refuse is refused at compile, with what was meant."""
    found = examine(function(source, tmp_path), RULE)
    assert (found.reason, found.help) == (reason, help)


def test_what_only_python_can_read_is_impure_and_known_fields_stay_pure(tmp_path: Path) -> None:
    """AU-41, AU-42"""
    assert examine(function("lambda c: c.event.wire", tmp_path), RULE).reason == "it reads c.event.wire"
    assert examine(function("lambda c: c.event.wire", tmp_path), RULE).help == ""
    for known in ("c.event.payload.anything.at_all", "c.env['A']", "c.dispatch_inputs.get('x')"):
        assert examine(function(f"lambda c: {known}", tmp_path), RULE).pure, known


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "def f(c):\n    e = c.event\n    return e.target_brnch",
            "the event has no attribute 'target_brnch'",
        ),
        ("lambda c: c.env.CI", "a mapping has no attribute 'CI'"),
        ("lambda c: c.event['action']", "TypeError"),
        ("lambda c: 'action' in c.event", "TypeError"),
        ("lambda c: c.changed_flies", "the context has no attribute 'changed_flies'"),
    ],
)
def test_unknown_fields_fail_where_no_compiler_saw_them(source: str, reason: str, tmp_path: Path) -> None:
    """AU-34, AU-41: as in Python; what is known but absent is None."""
    tree = examine(function(source, tmp_path)).tree
    with pytest.raises(ExpressionError, match=reason):
        evaluate(tree, rule_scope(Event(type="push")))
    assert evaluate(["attr", ["arg"], "action"], event_scope(Event(type="push"))) is None


def test_fields_that_authors_may_read_are_what_the_orchestrator_knows() -> None:
    """AU-41: neither side has one that the other lacks, and Python has them all."""
    event = Event(type="push")
    for fields, scope in (
        (EVENT, event_scope(event)),
        (RULE, rule_scope(event)),
        (CONCURRENCY, concurrency_scope(event, workflow="w")),
        (RULE.known["fanout"], rule_scope(event).values["fanout"]),
    ):
        assert fields is not None
        assert set(fields.known) == set(scope.values)
        assert set(fields.known) <= fields.members
