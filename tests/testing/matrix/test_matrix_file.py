# SPDX-License-Identifier: MIT
"""A matrix file: which boots it declares, what is expected of each, and what is refused."""

from __future__ import annotations

import itertools
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import UsageError
from pyvmm.memory.sizes import size_text
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.matrix.matrix_file import parse_matrix
from pyvmm.testing.matrix.plan import (
    Boot,
    End,
    Expectation,
    Matrix,
    Strictness,
    check_limit,
)

BASE = """
memory = ["64M", "1G"]
cpus = [1, 2]
hosts = ["model", "kvm"]
"""
EXIT = '[[image]]\npath = "exit"\n'
ECHO = '[[image]]\npath = "images/echo.img"\n'


def boots(text: str) -> dict[str, Boot]:
    listed = list(parse_matrix(text, "m.toml").boots())
    by_key = {boot.key: boot for boot in listed}
    assert len(by_key) == len(listed)
    return by_key


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_matrix(text, "m.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_combination_once_and_in_the_order_of_the_file() -> None:
    assert list(boots(BASE + EXIT + ECHO)) == [
        f"{image}/{memory}-{cpus}cpu-{host}"
        for image in ("exit", "echo")
        for memory in ("64M", "1G")
        for cpus in (1, 2)
        for host in ("model", "kvm")
    ]


def test_an_image_may_have_lists_and_a_time_limit_of_its_own() -> None:
    found = boots(
        BASE
        + "timeout = 5\n"
        + EXIT
        + ECHO
        + 'name = "e"\nmemory = "8M"\ncpus = 4\nhosts = ["qemu-tcg"]\ntimeout = 1.5\n'
    )
    assert [key for key in found if key.startswith("e/")] == ["e/8M-4cpu-qemu-tcg"]
    assert found["e/8M-4cpu-qemu-tcg"].image.timeout == 1.5
    assert found["exit/64M-1cpu-kvm"].image.timeout == 5


def test_without_lists_it_is_a_small_machine() -> None:
    (boot,) = boots('hosts = "kvm"\n' + EXIT).values()
    assert (boot.memory, boot.cpus, boot.image.timeout) == (64 << 20, 1, 60)
    assert boot.expect == Expectation(End.EXITED, 0, strictness=Strictness.MUST_PASS)


def test_exclusions_take_away_what_has_a_value_of_each_list() -> None:
    found = boots(
        BASE
        + EXIT
        + ECHO
        + '[[exclude]]\nimages = "exit"\nmemory = "1024M"\nhosts = "kvm"\nreason = "why"\n'
        + "[[exclude]]\ncpus = [2]\n"
    )
    assert set(found) == {
        "exit/64M-1cpu-model", "exit/64M-1cpu-kvm", "exit/1G-1cpu-model",
        "echo/64M-1cpu-model", "echo/64M-1cpu-kvm", "echo/1G-1cpu-model", "echo/1G-1cpu-kvm",
    }  # fmt: skip


def test_what_is_expected_and_the_last_word_on_it() -> None:
    found = boots(
        BASE
        + EXIT
        + '[image.expect]\nstatus = 9\nconsole = ["a", "b"]\nabsent = "panic"\n'
        + '[[expect]]\nmemory = "1G"\nstatus = 3\n'
        + '[[expect]]\nhosts = "kvm"\nmemory = "1G"\nfails = "known"\n'
        + '[[expect]]\ncpus = 2\nmay_fail = "flaky"\nend = "panicked"\n'
    )
    plain = found["exit/64M-1cpu-model"].expect
    assert (plain.status, plain.console, plain.absent) == (9, ("a", "b"), ("panic",))
    large = found["exit/1G-1cpu-model"].expect
    assert (large.status, large.console, large.strictness) == (3, ("a", "b"), Strictness.MUST_PASS)
    known = found["exit/1G-1cpu-kvm"].expect
    assert (known.status, known.strictness, known.reason) == (3, Strictness.FAILS, "known")
    last = found["exit/1G-2cpu-kvm"].expect
    assert (last.end, last.status, last.strictness) == (End.PANICKED, None, Strictness.MAY_FAIL)
    assert last.reason == "flaky"


def test_a_status_that_is_put_in_place_of_another_end_is_that_of_an_exit() -> None:
    (boot,) = boots(
        'hosts = "kvm"\n'
        + EXIT
        + 'expect = { end = "reset" }\n[[expect]]\nimages = "exit"\nstatus = 4\n'
    ).values()
    assert (boot.expect.end, boot.expect.status) == (End.EXITED, 4)


WRONG = {
    "no hosts": (EXIT, "it has no hosts for the image exit; add hosts = [...], of model, kvm"),
    "hosts without any": ("hosts = []\n" + EXIT, "the file has no hosts"),
    "no images": (BASE, "it has no images"),
    "no path": (BASE + "[[image]]\n", "[[image]] 1 has no path"),
    "unknown key": ("memroy = 1\n", "a key that is not known, 'memroy'; is memory meant?"),
    "unknown key of an image": (
        BASE + EXIT + "zzz = 1\n",
        "[[image]] 1 has a key that is not known, 'zzz'; the keys are name, path",
    ),
    "unknown key of an expectation": (
        BASE + EXIT + "[image.expect]\nstate = 1\n",
        "[[image]] 1, expect has a key that is not known, 'state'; is status meant?",
    ),
    "unknown key of an exclusion": (
        BASE + EXIT + '[[exclude]]\nhost = "kvm"\n',
        "[[exclude]] 1 has a key that is not known, 'host'; is hosts meant?",
    ),
    "unknown host": ('hosts = ["kmv"]\n' + EXIT, "'kmv' is no host (is kvm meant?); hosts are"),
    "auto is no host": ('hosts = ["auto"]\n' + EXIT, "'auto' is no host"),
    "twice": ('memory = ["64M", "65536K"]\nhosts = "kvm"\n' + EXIT, "memory has 64M twice"),
    "no size": ("memory = [64]\n", 'memory: 64 is no size ("64M", "2G")'),
    "no number": ("cpus = [true]\n", "cpus: True is no whole number from 1 to 255"),
    "too many": ("cpus = [256]\n", "cpus: 256 is no whole number from 1 to 255"),
    "a number without end": (f"cpus = 0x{'f' * 9999}\n", "cpus: a number is no whole number"),
    "more digits than Python reads": (f"cpus = {'9' * 9999}\n", "it is no TOML"),
    "no time": (BASE + "timeout = nan\n", "timeout: nan is no number of seconds"),
    "no time left": (BASE + "timeout = 0\n", "timeout: 0 is no number of seconds"),
    "a date": (BASE + "timeout = 2026-01-01\n", "is no number of seconds"),
    "no TOML": ("[[image]\n", "it is no TOML: "),
    "a value twice": ("cpus = 1\ncpus = 2\n", "it is no TOML: "),
    "nested without end": (f"cpus = {'[' * 9999}", "it is nested too deeply"),
    "a table for a list": (BASE + '[image]\npath = "exit"\n', "write each as [[image]]"),
    "two of a name": (BASE + EXIT + EXIT, "two images are called exit"),
    "a name that leads elsewhere": (BASE + EXIT + 'name = "../x"\n', "cannot be a name"),
    "a zero byte": (BASE + EXIT + 'append = "a\\u0000"\n', "text with a zero byte in it"),
    "no flag": (BASE + EXIT + 'private = "yes"\n', "private is neither true nor false"),
    "no end": (
        BASE + EXIT + 'expect = { end = "exit" }\n',
        "'exit' is no end (is exited meant?); ends are exited, reset",
    ),
    "a status after a reset": (
        BASE + EXIT + 'expect = { end = "reset", status = 1 }\n',
        "expects the end reset and a status",
    ),
    "an end by nothing": (
        BASE + EXIT + 'expect = { end = "console" }\n',
        "expects the end console and says nothing of the console",
    ),
    "no regular expression": (
        BASE + EXIT + 'expect = { regex = "(" }\n',
        "is no regular expression (missing )",
    ),
    "an empty text": (BASE + EXIT + 'expect = { console = "" }\n', "console has an empty text"),
    "excludes all": (BASE + EXIT + "[[exclude]]\n", "[[exclude]] 1 is about every combination"),
    "excludes a stranger": (
        BASE + EXIT + '[[exclude]]\nimages = "exti"\n',
        "no combination has exti (is exit meant?)",
    ),
    "excludes what is not there": (
        BASE + EXIT + ECHO + 'hosts = "lab"\n[[exclude]]\nimages = "exit"\nhosts = "lab"\n',
        "[[exclude]] 1 is about no combination that there is",
    ),
    "expects nothing": (BASE + EXIT + "[[expect]]\ncpus = 1\n", "[[expect]] 1 expects nothing"),
    "fails for no reason": (BASE + EXIT + '[[expect]]\ncpus = 1\nfails = " "\n', "gives no reason"),
    "fails and may": (
        BASE + EXIT + '[[expect]]\ncpus = 1\nfails = "a"\nmay_fail = "b"\n',
        "has both fails and may_fail",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused_in_one_line_that_says_where(what: str) -> None:
    text, said = WRONG[what]
    told = refusal(text)
    assert told.startswith("cannot read the matrix m.toml: ")
    assert said in told
    assert len(told) < 300


def test_a_million_combinations_are_counted_and_not_made() -> None:
    sizes = ", ".join(f'"{size}M"' for size in range(2, 102))
    text = f"memory = [{sizes}]\ncpus = [{', '.join(map(str, range(1, 101)))}]\nhosts = 'kvm'\n"
    text += "".join(f"[[image]]\npath = 'exit'\nname = 'i{number}'\n" for number in range(100))
    matrix = parse_matrix(text, "m.toml")
    assert matrix.combinations == 1_000_000
    with pytest.raises(UsageError) as caught:
        check_limit(matrix, "m.toml", 1000)
    assert str(caught.value) == (
        "cannot boot the matrix m.toml: it has 1000000 combinations, more than 1000; shorten its "
        "lists, or say --limit 1000000 if all of them are meant"
    )
    check_limit(matrix, "m.toml", 1_000_000)
    assert [boot.key for boot in itertools.islice(matrix.boots(), 2)] == [
        "i0/2M-1cpu-kvm", "i0/2M-2cpu-kvm",
    ]  # fmt: skip


MEMORY = ("64M", "128M", "1G")
HOSTS = tuple(host.value for host in HostName if host is not HostName.AUTO)


@given(
    memory=st.lists(st.sampled_from(MEMORY), min_size=1, unique=True),
    cpus=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
    hosts=st.lists(st.sampled_from(HOSTS), min_size=1, unique=True),
    data=st.data(),
)
def test_any_matrix_has_each_combination_once_but_for_those_excluded(
    memory: list[str], cpus: list[int], hosts: list[str], data: st.DataObject
) -> None:
    axes: dict[str, list[str] | list[int]] = {"memory": memory, "cpus": cpus, "hosts": hosts}
    drawn = st.fixed_dictionaries(
        {}, optional={name: st.lists(st.sampled_from(axis), min_size=1, unique=True)
                      for name, axis in axes.items()},
    ).filter(bool)  # fmt: skip
    excluded = data.draw(st.lists(drawn, max_size=3))
    lines = [f"{name} = {axis}" for name, axis in axes.items()]
    lines += ["[[image]]", "path = 'exit'"]
    for one in excluded:
        lines += ["[[exclude]]", *(f"{name} = {axis}" for name, axis in one.items())]
    matrix = parse_matrix("\n".join(lines).replace('"', "'"), "m.toml")
    wanted = [
        (size, count, host)
        for size, count, host in itertools.product(memory, cpus, hosts)
        if not any(
            size in one.get("memory", memory)
            and count in one.get("cpus", cpus)
            and host in one.get("hosts", hosts)
            for one in excluded
        )
    ]
    made = [(size_text(boot.memory), boot.cpus, boot.host.value) for boot in matrix.boots()]
    assert made == wanted
    assert matrix.combinations == len(memory) * len(cpus) * len(hosts)


@given(st.text(alphabet="[]{}=\"'\n.#i1mage pathoscu,", max_size=60))
def test_any_text_is_a_matrix_or_refused(text: str) -> None:
    try:
        matrix = parse_matrix(text, "m.toml")
    except UsageError:
        return
    assert isinstance(matrix, Matrix)


@pytest.mark.parametrize(
    ("size", "cause"),
    [
        ("3K", "no multiple of a page, 4K"),
        ("2097153B", "no multiple of a page, 4K"),
        ("0M", "less than a guest can have, 2M"),
        ("1M", "less than a guest can have, 2M"),
        ("8T", "more than a guest can have, 8191G"),
        ("999T", "more than a guest can have, 8191G"),
        ("64", 'no size ("64M", "2G")'),
    ],
)
def test_memory_that_no_guest_can_have_is_refused_with_the_file(size: str, cause: str) -> None:
    said = refusal(f"hosts = 'kvm'\nmemory = ['64M', '{size}']\n" + EXIT)
    assert f"the file: memory: '{size}' is {cause}; " in said


def test_sizes_as_reports_write_them_can_be_read() -> None:
    assert [*boots("hosts = 'kvm'\nmemory = ['4194304B', '6MiB', '1T']\n" + EXIT)] == [
        "exit/4M-1cpu-kvm", "exit/6M-1cpu-kvm", "exit/1T-1cpu-kvm",
    ]  # fmt: skip


def test_a_pattern_that_a_later_python_may_read_otherwise_is_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (boot,) = boots("hosts = 'kvm'\n" + EXIT + "expect = { regex = '[[a]x' }\n").values()
        assert [pattern.pattern for _, pattern in boot.expect.wanted()] == [b"[[a]x"]
