# SPDX-License-Identifier: MIT
"""Hosts, memory and CPUs of a test: by marks and options; what a host cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.errors import UsageError
from pyvmm.testing import plugin
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.session.marks import MARK, words_of

PLUGINS = ("-p", "pyvmm.testing.plugin", "-p", "no:cacheprovider", "-W", "error")


@pytest.fixture(autouse=True)
def _plugins_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def collected(pytester: pytest.Pytester, *options: str) -> list[str]:
    """Names of the tests, in their order."""
    result = pytester.runpytest_inprocess(*PLUGINS, "--collect-only", "-q", *options)
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


MARKED = """
    import pytest

    pytestmark = pytest.mark.pyvmm(hosts=["qemu-tcg", "model"])

    class TestIt:
        pytestmark = pytest.mark.pyvmm(cpus=[2, 1, 2])

        def test_near(self, boot): ...

        @pytest.mark.pyvmm(hosts="kvm,model", memory=["1G", 64 << 20, 8191])
        @pytest.mark.parametrize("word", ["a"])
        def test_nearer(self, async_boot, word): ...

    def test_far(booted): ...

    def test_none(): ...
"""


def test_a_mark_makes_a_test_of_each_combination(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MARKED)
    nearer = [
        f"TestIt::test_nearer[a-{host}-{memory}-{cpus}]"
        for host in ("model", "kvm")
        for memory in ("8191B", "64M", "1G")
        for cpus in ("1cpu", "2cpus")
    ]
    assert collected(pytester) == [
        *(f"TestIt::test_near[{one}]" for one in (
            "model-1cpu", "model-2cpus", "qemu-tcg-1cpu", "qemu-tcg-2cpus"
        )),
        *nearer,
        "test_far[model]",
        "test_far[qemu-tcg]",
        "test_none",
    ]  # fmt: skip
    assert collected(pytester, "--pyvmm-host", "kvm", "--pyvmm-host=qemu-kvm,model") == [
        "TestIt::test_near[model-1cpu]",
        "TestIt::test_near[model-2cpus]",
        *nearer,
        "test_far[model]",
        "test_none",
    ]


def test_without_marks_the_command_line_decides(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(boot): ...")
    assert collected(pytester) == ["test_it"]
    assert collected(pytester, "--pyvmm-host", "qemu-kvm,model") == [
        "test_it[model]",
        "test_it[qemu-kvm]",
    ]


def test_a_mark_and_a_command_line_that_disagree_skip(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.pyvmm(hosts=["model"])
        def test_it(boot): raise AssertionError("it ran")
        """
    )
    result = pytester.runpytest_inprocess(*PLUGINS, "-rs", "--pyvmm-host", "kvm")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*its mark has it run on model, --pyvmm-host on others"])


def test_a_required_host_that_is_left_out_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): ...")
    said = "--pyvmm-host leaves out what --pyvmm-require has: no test ran on kvm, lab"
    required = ("-q", "--pyvmm-require", "kvm,lab", "--pyvmm-require=model")
    result = pytester.runpytest_inprocess(*PLUGINS, *required, "--pyvmm-host=model")
    assert [line for line in result.outlines if "leaves out" in line] == [f"pyvmm: {said}"]
    for chosen in ("model,lab,kvm", "auto"):
        result = pytester.runpytest_inprocess(*PLUGINS, *required, "--pyvmm-host", chosen)
        assert "leaves out" not in result.stdout.str()
    result = pytester.runpytest_inprocess(*PLUGINS, *required)
    assert "leaves out" not in result.stdout.str()


@pytest.mark.slow
def test_boots_have_what_the_test_is_for_unless_they_say_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.pyvmm(hosts=["model"], memory="32M", cpus=2)
        def test_it(boot):
            asked = boot("exit").request
            assert (asked.host.value, asked.memory, asked.cpus) == ("model", 32 << 20, 2)
            asked = boot("exit", host="kvm", memory="16M", cpus=1).request
            assert (asked.host.value, asked.memory, asked.cpus) == ("kvm", 16 << 20, 1)
            with boot("exit", append="9", cpus=1) as vm:
                assert vm.host.value == "model"
                assert vm.wait().status == 9

        def test_nothing_said(boot):
            asked = boot("exit").request
            assert (asked.host.value, asked.memory, asked.cpus) == ("auto", 64 << 20, 1)
        """
    )
    pytester.runpytest_inprocess(*PLUGINS).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            {"host": "kvm"},
            "mark pyvmm(host): it takes hosts=, memory= and cpus=, and nothing else;",
        ),
        ({"host": "kvm"}, "; write hosts="),
        ({"memroy": "1G"}, "; write memory="),
        ({"hosts": "quemu-kvm"}, "qemu-tcg, qemu-kvm; write qemu-kvm"),
        ({"hosts": "qemu"}, "there is no host 'qemu'; there are auto, model, kvm, lab, qemu-tcg"),
        ({"hosts": ["kvm", 7]}, "there is no host 7;"),
        ({"hosts": []}, "none is named; there are auto, model, kvm"),
        ({"hosts": None}, "there is no host None"),
        ({"memory": "much"}, "memory='much' of a mark: it is a size (64M, 2G), or bytes"),
        ({"memory": [0]}, "memory=0 of a mark"),
        ({"memory": True}, "memory=True of a mark"),
        ({"cpus": "2"}, "cpus='2' of a mark: it is a number of vCPUs, from 1 on"),
        ({"cpus": ()}, "nothing is in it"),
    ],
)
def test_words_that_make_no_sense(words: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        words_of([getattr(pytest.mark, MARK)(**words).mark])
    assert complaint in str(caught.value)


def test_such_a_mark_ends_the_collection_with_a_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.pyvmm("kvm")
        def test_it(boot): ...
        """
    )
    result = pytester.runpytest_inprocess(*PLUGINS, "--strict-markers")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    (line,) = [line for line in result.outlines if "cannot" in line]
    assert line.endswith(
        "::test_it: cannot understand the mark pyvmm('kvm'): "
        "it takes hosts=, memory= and cpus=, and nothing else; write hosts="
    )
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("option", ["--pyvmm-host", "--pyvmm-require"])
def test_such_an_option_is_refused_with_a_line(pytester: pytest.Pytester, option: str) -> None:
    result = pytester.runpytest_inprocess(*PLUGINS, option, "kvm,nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*error: argument {option}: there is no host 'nowhere'; *"])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--pyvmm-timeout", one) for one in ("0", "-1", "nan", "inf", "soon")]
    + [("--pyvmm-boots", one) for one in ("-3", "1_0", "")],
)
def test_a_number_that_makes_no_sense_is_refused_with_a_line(
    pytester: pytest.Pytester, option: str, value: str
) -> None:
    result = pytester.runpytest_inprocess(*PLUGINS, f"{option}={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*error: argument {option}: '{value}' is no *"])


def test_a_host_that_a_boot_says_is_one_of_the_command_lines(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("host", ["kvm", "model", "auto"])
        def test_it(boot, host):
            assert boot("exit", host=host).request.host.value == host
        """
    )
    result = pytester.runpytest_inprocess(*PLUGINS, "-rs", "--pyvmm-host", "model")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*it boots on kvm, --pyvmm-host has others"])
    for options in ((), ("--pyvmm-host=model,auto",)):
        result = pytester.runpytest_inprocess(*PLUGINS, "-k", "kvm", *options)
        assert result.parseoutcomes().keys() == {"passed", "deselected"}


@pytest.mark.slow
def test_a_host_that_is_required_fails_where_it_cannot(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.pyvmm(hosts=["model"])
        def test_it(boot):
            with boot("echo") as vm:
                vm.convert(0, 4096, "private")
        """
    )
    said = "cannot use page states and conversion on model: *"
    for options in ((), ("--pyvmm-require", "kvm,qemu-tcg")):
        result = pytester.runpytest_inprocess(*PLUGINS, "-rs", *options)
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines([f"SKIPPED*: {said}"])
    result = pytester.runpytest_inprocess(*PLUGINS, "--pyvmm-require", "kvm,model")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said + "(required: --pyvmm-require)"])
    assert "Traceback" not in result.stdout.str()
    assert "During handling" not in result.stdout.str()


def test_the_lab_is_not_booted_on_from_out_here(boot: Boots) -> None:
    with pytest.raises(UsageError, match=r"runs in the lab; mark it: .*hosts=\[.lab.\]"):
        boot("exit", host="lab").__enter__()


def test_no_lab_is_a_skip_with_a_hint(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_LAB_KERNEL", "/no/such/kernel")
    pytester.makepyfile("def test_it(boot): raise AssertionError('it ran')")
    result = pytester.runpytest_inprocess(*PLUGINS, "-rs", "--pyvmm-host", "lab")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*cannot run a guest on lab: *"])
    result = pytester.runpytest_inprocess(*PLUGINS, "--pyvmm-host=lab", "--pyvmm-require=lab")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["cannot run a guest on lab: *(required: --pyvmm-require)"])


@pytest.mark.slow
def test_every_worker_has_the_same_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.pyvmm(hosts={"model", "kvm", "qemu-tcg"}, memory={"2M", "3M", "4M"})
        def test_it(boot):
            with boot("exit", append="9") as vm:
                assert vm.wait().status == 9
        """
    )
    result = pytester.runpytest_subprocess(
        *PLUGINS, "-p", "xdist", "-n", "2", "--pyvmm-host", "model,lab", "--pyvmm-require=model"
    )
    result.assert_outcomes(passed=3)


def test_help_names_all_hosts() -> None:
    for host in HostName:
        assert host.value in plugin._MARK
