"""An exception as text: like Python's own, bounded, storable, without secrets, and never an error itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cq.tracebacks
from cq.tracebacks import MESSAGE, TRACEBACK, clean, describe, redact

PACKAGE = Path(cq.tracebacks.__file__).parent


def raised(problem, cause=None):
    try:
        raise problem from cause
    except BaseException as error:  # noqa: BLE001
        return error


def run(source, file, **names):
    exec(compile(source, str(file), "exec"), names)
    return names


def storable(text):
    text.encode()
    return "\x00" not in text


# -- What is in it


def test_the_error_is_the_type_and_the_message():
    class Odd(Exception):
        pass

    assert describe(ValueError("bad"))[0] == "ValueError: bad"
    assert describe(ValueError())[0] == "ValueError"
    assert describe(KeyError("k"))[0] == "KeyError: 'k'"
    assert describe(Odd("x"))[0] == "Odd: x"


def test_the_traceback_reads_like_pythons_own():
    def inner():
        raise ValueError("bad")

    try:
        inner()
    except ValueError as error:
        line = error.__traceback__.tb_lineno
        _, traceback = describe(error)
    assert traceback.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{__file__}", line {line}, in test_the_traceback_reads_like_pythons_own',
        "    inner()",
        f'  File "{__file__}", line {line - 3}, in inner',
        '    raise ValueError("bad")',
        "ValueError: bad",
    ]


def test_an_exception_of_a_module_is_named_with_it():
    assert describe(subprocess.SubprocessError("x"))[1] == "subprocess.SubprocessError: x"


def test_no_value_of_a_local_variable_is_shown():
    def fails(password):
        return password["missing"]

    with pytest.raises(KeyError) as caught:
        fails({"key": f"canary-{1 + 1}"})
    assert "canary-2" not in "".join(describe(caught.value))


def test_frames_of_cq_that_called_the_users_code_are_left_out():
    user = run("def f():\n  raise ValueError('bad')", "/app/tasks.py")["f"]
    own = run("def call(f):\n  f()", PACKAGE / "execution.py")["call"]
    back = run("def g():\n  own(f)", "/app/tasks.py", own=own, f=user)["g"]

    def frames(function, *args):
        with pytest.raises(ValueError, match="bad") as caught:
            function(*args)
        error = caught.value.with_traceback(caught.value.__traceback__.tb_next)
        return [line.split('"')[1] for line in describe(error)[1].splitlines() if "File" in line]

    assert frames(own, user) == ["/app/tasks.py"]
    # Only at the top: what the user's code called of cq stays.
    assert frames(own, back) == ["/app/tasks.py", str(PACKAGE / "execution.py"), "/app/tasks.py"]
    fails = run("def fails():\n  raise ValueError('bad')", PACKAGE / "execution.py")["fails"]
    assert (
        frames(own, fails) == [str(PACKAGE / "execution.py")] * 2
    )  # an error of our own: all of it


def test_causes_and_contexts_are_told_oldest_first():
    _, caused = describe(raised(ValueError("new"), KeyError("old")))
    assert (
        caused.index("KeyError: 'old'")
        < caused.index("direct cause")
        < caused.index("ValueError: new")
    )
    try:
        try:
            raise KeyError("old")
        except KeyError:
            raise ValueError("new")  # noqa: B904
    except ValueError as error:
        _, met = describe(error)
    assert (
        met.index("KeyError: 'old'") < met.index("During handling") < met.index("ValueError: new")
    )
    error = raised(ValueError("new"))
    error.__context__ = KeyError("old")
    error.__suppress_context__ = True  # `from None`
    assert "KeyError" not in describe(error)[1]


def test_notes_are_shown():
    error = ValueError("bad")
    error.add_note("while importing row 7")
    assert describe(error)[1] == "ValueError: bad\nwhile importing row 7"
    error.__notes__ = "text"
    assert describe(error)[1] == "ValueError: bad\ntext"


def test_the_children_of_a_group_are_shown_with_their_causes():
    child = raised(ValueError("child"), KeyError("its cause"))
    group = ExceptionGroup("all", [child, ExceptionGroup("inner", [OSError("deep")])])
    error, traceback = describe(group)
    assert error == "ExceptionGroup: all (2 sub-exceptions)"
    for line in ("  | ValueError: child", "  | KeyError: 'its cause'", "  |   | OSError: deep"):
        assert line in traceback.splitlines()


# -- Bounds


def test_a_long_message_is_cut_and_says_so():
    assert describe(ValueError("x" * MESSAGE))[0] == "ValueError: " + "x" * MESSAGE
    error, _ = describe(ValueError("x" * 5000))
    assert error == "ValueError: " + "x" * 2000 + "… [3,000 characters cut]"
    error, _ = describe(ValueError("\x00" * 2000))  # longer once it is visible
    assert error == "ValueError: " + "\\x00" * 500 + "… [6,000 characters cut]"
    error, _ = describe(ValueError("x" * 2000 + "hunter22"), ["hunter22"])
    assert error == "ValueError: " + "x" * 2000 + "… [8 characters cut]"


def test_a_message_of_a_hundred_megabytes_is_not_copied():
    error = raised(ValueError("x" * 100_000_000))
    error.add_note(error.args[0])
    tracemalloc.start()
    try:
        short, traceback = describe(error, ["hunter22"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000
    assert len(short) < 2100
    assert len(traceback) < TRACEBACK


def test_the_first_and_last_frames_of_a_deep_stack_are_kept():
    def deeper(left):
        if left:
            deeper(left - 1)
        raise ValueError("bad")

    try:
        deeper(200)
    except ValueError as error:
        _, traceback = describe(error)
    assert traceback.count("in deeper") == 59
    assert traceback.count("  File ") == 60
    assert "[142 frames left out]" in traceback
    assert traceback.endswith("ValueError: bad")


def test_endless_recursion_is_described():
    def endless():
        endless()

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        endless()
    except RecursionError as error:
        short, traceback = describe(error)
    finally:
        sys.setrecursionlimit(limit)
    assert short.startswith("RecursionError: ")
    assert traceback.count("in endless") == 59
    assert "frames left out]" in traceback


def test_a_long_traceback_keeps_its_head_and_its_tail():
    error = ValueError("the first")
    for number in range(9):
        error = raised(RuntimeError(f"{number} " + "x" * 5000), error)
        error.add_note("y" * 5000)
    _, traceback = describe(error)
    assert 31_900 < len(traceback) <= TRACEBACK
    assert traceback.startswith("ValueError: the first")
    assert traceback.endswith("y… [3,000 characters cut]")
    assert " characters cut] …\n" in traceback


def test_at_most_ten_exceptions_of_a_chain_are_told():
    error = ValueError("number 0")
    for number in range(1, 50_000):
        newer = ValueError(f"number {number}")
        newer.__cause__, error = error, newer
    _, traceback = describe(error)
    assert traceback.count("ValueError: ") == 10
    assert "[9,990 exceptions left out]" in traceback
    assert traceback.endswith("ValueError: number 49999")
    while error:  # 50,000 in each other are more than C can free at once
        error.__cause__, error = None, error.__cause__


def test_a_group_of_very_many_is_bounded():
    same = ValueError("same")
    for children in ([ValueError(str(n)) for n in range(100_000)], [same] * 100_000):
        _, traceback = describe(ExceptionGroup("many", children))
        assert traceback.count("ValueError") <= 30
        assert "exceptions left out]" in traceback
    error = ValueError("deepest")
    for _ in range(500):
        error = ExceptionGroup("g", [error])
    _, traceback = describe(error)
    assert traceback.count("ExceptionGroup: ") == 6
    assert "[1 exceptions left out]" in traceback


def test_a_ring_of_exceptions_ends():
    a, b = ValueError("a"), ValueError("b")
    a.__context__, b.__context__ = b, a
    assert describe(a)[1].count("ValueError: ") == 2
    group = ExceptionGroup("g", [a])
    b.__context__ = group
    assert describe(group)[1].count("ValueError: ") == 2


# -- It never fails


def evil(**members):
    return lambda: type("Evil", (Exception,), members)("x")  # made later: pytest can't bear it


def fails(*_args):
    raise RuntimeError("canary")


def stops(*_args):
    raise SystemExit


class EvilText(str):
    __slots__ = ()
    __str__ = __len__ = __getitem__ = __iter__ = replace = encode = isascii = fails


class EvilMeta(type):
    __getattribute__ = fails


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (evil(__str__=fails), "Evil: <its message can't be read: RuntimeError in __str__>"),
        (evil(__str__=stops), "Evil: <its message can't be read: SystemExit in __str__>"),
        (evil(__str__=lambda _: 5), "Evil: <its message can't be read: TypeError in __str__>"),
        (evil(__str__=lambda _: EvilText("mine")), "Evil: mine"),
        (evil(__repr__=fails, __getattribute__=fails), "Evil: x"),
        (evil(__cause__=property(fails), __context__=property(fails)), "Evil: x"),
        (evil(__traceback__=property(fails), __suppress_context__=property(fails)), "Evil: x"),
        (evil(__notes__=property(stops)), "Evil: x"),
        (evil(__notes__=[5, EvilText("n"), object(), "\x00"]), "Evil: x"),
        (evil(__notes__=None), "Evil: x"),
        (evil(__notes__="text"), "Evil: x"),
        (evil(__notes__=["n"] * 1_000_000), "Evil: x"),
        (evil(__module__=5), "Evil: x"),
        (evil(__eq__=fails, __hash__=fails, __bool__=fails), "Evil: x"),
        (lambda: EvilMeta("EvilClass", (Exception,), {})("x"), "EvilClass: x"),
        (
            lambda: KeyError(evil(__repr__=fails)()),
            "KeyError: <its message can't be read: RuntimeError in __str__>",
        ),
        (lambda: ValueError("a\x00b\udc80"), "ValueError: a\\x00b\\udc80"),
        (
            type(
                "E" * 1000, (Exception,), {"__init__": lambda self: Exception.__init__(self, "x")}
            ),
            "E" * 300 + "… [700 characters cut]: x",
        ),
        (KeyboardInterrupt, "KeyboardInterrupt"),
    ],
)
def test_an_exception_that_fights_back_is_described(make, expected):
    error = make()
    for problem in (error, raised(error)):
        short, traceback = describe(problem, ["hunter22"])
        assert short == expected
        assert storable(short + traceback)
        assert "canary" not in short
        assert "[the traceback can't be written" not in traceback
        assert expected.split(": ", 1)[-1] in traceback
    # and as a cause and a child of another
    assert "outer" in describe(raised(ValueError("outer"), error))[1]
    assert "outer" in describe(BaseExceptionGroup("outer", [error]))[1]


def test_a_source_that_cannot_be_read_is_left_out():
    class Loader:
        get_source = fails

    code = run(
        "def f():\n  raise ValueError('bad')", "/none/x\udc80.py", __loader__=Loader(), __name__="x"
    )
    with pytest.raises(ValueError, match="bad") as caught:
        code["f"]()
    _, traceback = describe(caught.value)
    assert '  File "/none/x\\udc80.py", line 2, in f\nValueError: bad' in traceback


def test_an_exception_is_asked_for_its_message_once():
    asked = []

    class Slow(Exception):
        def __str__(self):
            asked.append(1)
            return "x"

    assert describe(Slow())[0] == "Slow: x"
    assert asked == [1]


def test_it_gives_something_even_where_nothing_works(monkeypatch):
    monkeypatch.setattr(cq.tracebacks, "_frames", fails)
    assert describe(ValueError("bad")) == (
        "ValueError: bad",
        "[the traceback can't be written: RuntimeError]",
    )
    monkeypatch.setattr(cq.tracebacks, "_name", fails)
    assert describe(ValueError("bad"))[0] == "an exception that can't be described"


@given(st.text(st.characters()), st.lists(st.text(st.characters())))
def test_any_message_and_note_can_be_stored(message, notes):
    error = ValueError(message)
    for note in notes:
        error.add_note(note)
    assert all(map(storable, describe(error, notes)))


@given(st.text(st.characters()))
@example("a\x00\ud800é")
def test_clean_text_can_be_stored_and_what_was_clean_is_unchanged(text):
    shown = clean(text)
    assert storable(shown)
    assert clean(shown) == shown
    if not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in text):
        assert shown == text


# -- Secrets


def test_hidden_values_are_replaced_the_longest_first():
    assert redact("hunter22 and hunter", ["hunter", "hunter22"]) == "*** and ***"
    assert redact("ab a", ["a", "ab", ""]) == "ab a"  # too short to mean anything
    assert redact("abcabc", ["abc"]) == "******"
    assert redact("xabcdefy", ["abcd", "cdef"]) == "x***y"  # no half of an overlap is left
    assert redact("xabcdefy", ["abcdef", "bcd"]) == "x***y"
    assert redact("nothing", []) == "nothing"


def test_a_hidden_value_is_found_in_a_repr_and_in_json():
    secret = 'pass"wörd\n\x00'
    for text in (repr([secret + "'"]), f'{{"a": "{secret}"}}', clean(secret)):
        assert "rd" not in redact(text, [secret])
    assert "rd" not in redact(json.dumps([secret]), [secret])


def test_secrets_are_in_no_part_of_a_description():
    secret = "canary-7"

    class Leaky(Exception):
        pass

    Leaky.__name__ = "Leaky_canary-7"
    child = raised(Leaky(secret), raised(KeyError(secret)))
    child.add_note(f"with {secret}")
    code = run(f"def f():\n  raise ValueError('{secret}')", f"/app/{secret}.py")
    with pytest.raises(ValueError, match=secret) as caught:
        code["f"]()
    with pytest.raises(ValueError, match=secret) as in_source:
        raise ValueError("canary-7")
    group = raised(ExceptionGroup(secret, [child, caught.value, in_source.value]))
    text = "".join(describe(group, [secret]))
    assert secret not in text
    assert 'raise ValueError("***")' in text
    assert text.count("***") >= 9


@given(st.integers(MESSAGE - 40, MESSAGE + 10), st.integers(0, 3))
def test_a_secret_at_the_cut_is_not_shown_by_half(before, others):
    secret = "0123456789abcdef"
    hide = ["short", secret]
    message = (secret + " ") * others + "x" * (before - 17 * others) + secret + "y" * 100
    error, traceback = describe(ValueError(message), hide)
    assert "01" not in error.split("… [")[0]
    assert "01" not in traceback.split("… [")[0]
