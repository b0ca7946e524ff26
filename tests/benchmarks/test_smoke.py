"""The benchmarks run. What they measure is nobody's business here: a busy machine is no defect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.kvm
@pytest.mark.slow
def test_exits_run_and_give_positive_figures(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "exits", "--quick", "--json", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    everything = json.loads(out.read_text(encoding="utf-8"))
    assert everything["could_not_run"] == {}
    assert everything["host"]["KVM"].startswith("API 12")
    exits = everything["benchmarks"]["exits"]
    for name, subject in exits["subjects"].items():
        rate = subject["figures"]["exits_per_s"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"], name
        assert len(rate["samples"]) == rate["count"] == 3
    assert {one["baseline"] for one in exits["comparisons"]} == {"C"}


@pytest.mark.kvm
@pytest.mark.slow
def test_a_benchmark_that_cannot_run_is_told_and_fails(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run_hello", "--quick", "--json", out],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "run_hello: could not run: qemu-system-x86_64 is not installed" in done.stdout
    assert "run_hello" in json.loads(out.read_text(encoding="utf-8"))["could_not_run"]
