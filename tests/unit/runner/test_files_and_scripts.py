import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kici.runner.envfiles import read_env_file, read_path_file, with_path
from kici.runner.environment import inherited, step_environment
from kici.runner.script import bash_argv
from kici.runner.tracebacks import long_form, short_form
from kici.runner.values import decode_output, encode_output
from kici.sdk.errors import LimitExceededError, OutputError
from kici.spec.messages import shortened


def test_env_files_as_steps_write_them(tmp_path: Path) -> None:
    """AG-49, AU-69."""
    file = tmp_path / "env"
    file.write_text(
        "A=1\n\nnot a variable\nB=x=y\nA=2\nEMPTY=\n=nameless\nBAD NAME=1\nC<<END\nline 1\nD=no\nEND\nCRLF=v\r\n"
        "EQ=<<not here\nOPEN<<NEVER\nlast"
    )
    assert read_env_file(str(file)) == {
        "A": "2",
        "B": "x=y",
        "EMPTY": "",
        "C": "line 1\nD=no",
        "CRLF": "v",
        "EQ": "<<not here",
        "OPEN": "last",
    }
    assert read_env_file(str(tmp_path / "missing")) == {}


def test_path_files(tmp_path: Path) -> None:
    """AG-49, AU-69."""
    file = tmp_path / "path"
    file.write_text("/a\n\n/b c\n")
    assert read_path_file(str(file)) == ["/a", "/b c"]
    assert with_path({"PATH": "/usr/bin"}, ["/a", "/b c"]) == "/a:/b c:/usr/bin"
    assert with_path({}, ["/a"]) == "/a"


def test_the_environment_allow_list() -> None:
    """AG-63."""
    environ = {"PATH": "/bin", "KICI_AGENT_TOKEN": "x", "LANG": "C", "PYTHONPATH": "/x", "AWS_KEY": "y"}
    assert inherited(environ) == {"PATH": "/bin", "LANG": "C"}
    assert step_environment(environ) == {
        "PATH": "/bin", "LANG": "C", "FORCE_COLOR": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def output_of(script: str, **variables: object) -> str:
    return subprocess.run(bash_argv(script, variables), capture_output=True, check=True).stdout.decode()


@settings(max_examples=25, deadline=None)
@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_no_value_can_leave_its_variable(value: str) -> None:
    """AU-65, AU-66."""
    assert (
        output_of('printf \'%s|\' "$v" "${l[@]}" "$#"', v=value, l=[value, value]) == f"{value}|" * 3 + "0|"
    )


def test_kinds_of_values() -> None:
    script = 'echo "$text" "$number" "$flag" "$path" "${#none[@]}" "${items[*]}"'
    assert (
        output_of(script, text="a  b", number=1.5, flag=True, path=Path("/x y"), none=[], items=(1, "b c"))
        == "a  b 1.5 true /x y 0 1 b c\n"
    )


class Stage(str, Enum):  # noqa: UP042 - StrEnum would be text by itself
    DEV = "dev"


class Number(Enum):
    ONE = 1


def test_members_of_enums_are_their_values() -> None:
    """AU-65: as dispatch inputs hold them; also those that are no text by themselves."""
    assert (
        output_of('echo "$e" "$n" "${l[*]}"', e=Stage.DEV, n=Number.ONE, l=[Stage.DEV, Number.ONE])
        == "dev 1 dev 1\n"
    )


def test_a_list_that_no_command_line_holds_is_refused_by_its_name() -> None:
    """AU-65, AU-70."""
    with pytest.raises(LimitExceededError, match=r"the 400,000 entries of 'files' together are longer"):
        bash_argv("true", {"files": ["x"] * 400_000})


@pytest.mark.parametrize("name", ["PATH", "a-b", "1a", "é", ""])
def test_names_that_a_shell_variable_cannot_have(name: str) -> None:
    """AU-65."""
    with pytest.raises(ValueError, match="cannot be a shell variable"):
        bash_argv("true", {name: "x"})


def test_values_that_cannot_travel() -> None:
    with pytest.raises(TypeError, match="cannot become a shell variable"):
        bash_argv("true", {"v": {"a": 1}})
    with pytest.raises(ValueError, match="NUL"):
        bash_argv("true", {"v": "a\0b"})
    with pytest.raises(LimitExceededError, match="`input=`"):
        bash_argv("true", {"v": "x" * 131_072})
    with pytest.raises(LimitExceededError, match="put it into a file"):
        bash_argv("#" * 131_072, {})


def test_scripts_stop_at_the_first_failure() -> None:
    """AU-67."""
    done = subprocess.run(bash_argv("false | cat\necho no", {}), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    done = subprocess.run(bash_argv('echo "$unset"', {}), capture_output=True, check=False)
    assert done.returncode != 0


@dataclass
class Inner:
    count: int


@dataclass
class Outer:
    name: str
    inners: list[Inner]


def test_outputs_travel_as_json() -> None:
    """AU-25."""
    value, size = encode_output(Outer("x", [Inner(1)]), Outer, step="s")
    assert (value, size) == ({"name": "x", "inners": [{"count": 1}]}, 35)
    assert decode_output(value, Outer, step="s") == Outer("x", [Inner(1)])
    assert decode_output(value, None, step="s") == value
    assert decode_output({"1": 2}, dict[int, int], step="s") == {1: 2}


def test_a_wrong_output_names_its_field() -> None:
    """AU-25."""
    with pytest.raises(
        OutputError, match=r"is not a Outer: field 'inners\[0\].count': Expected `int`, got `str`"
    ):
        encode_output({"name": "x", "inners": [{"count": "1"}]}, Outer, step="s")
    with pytest.raises(OutputError, match="cannot be written as JSON"):
        encode_output(object(), None, step="s")
    with pytest.raises(OutputError, match="cannot be read back"):
        encode_output([1], list[int] | set[int], step="s")


def test_a_message_says_how_much_of_it_is_left_out() -> None:
    """AU-70: however often it is shortened on its way."""
    long = short_form(MemoryError("x" * 100_000), "/w")
    assert len(long) < 66_000
    short = shortened(long)
    assert short == shortened(short, 8192) == shortened(short)
    assert short == "MemoryError: " + "x" * (4096 - 13) + "… (95,917 characters left out)"
    assert shortened("y" * 4096) == "y" * 4096


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (2**70, "the output of step 's': an integer"),
        ({"a": [0, {"b": -(2**63) - 1}], "c": 1}, r"the output of step 's', field 'a\[1\].b': an integer"),
    ],
)
def test_an_integer_that_cannot_travel_names_its_field(value: object, where: str) -> None:
    """AU-25, AU-70: the mistake of its step, not the end of the runner."""
    with pytest.raises(OutputError, match=where + " may have 64 bits; write a larger one as text"):
        encode_output(value, None, step="s")
    assert encode_output([2**64 - 1, -(2**63)], None, step="s")[0] == [2**64 - 1, -(2**63)]


def test_tracebacks_are_cut_to_the_authors_frames(tmp_path: Path) -> None:
    """AU-70."""
    source = tmp_path / "ci.py"
    source.write_text(
        "import json\n"
        "def step():\n"
        "    try:\n"
        "        json.loads('{')\n"
        "    except ValueError as error:\n"
        "        raise RuntimeError('outer\\nmore') from error\n"
    )
    namespace: dict[str, object] = {}
    exec(compile(source.read_text(), str(source), "exec"), namespace)
    try:
        namespace["step"]()  # type: ignore[operator]
    except RuntimeError as error:
        long, short = long_form(error, str(tmp_path)), short_form(error, str(tmp_path))
    else:
        raise AssertionError
    assert short == "RuntimeError: outer (ci.py:6)\nmore"
    assert __file__ not in long
    assert "json.loads('{')" in long
    assert "JSONDecodeError" in long
    assert sys.modules["json"].__file__ is not None
