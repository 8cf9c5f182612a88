"""The script that checks a GPU, with small models on the CPU; on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_smoke.py"
ON_A_CPU_SKIPPED = {"resume_on_another_device", "out_of_memory_elsewhere"}


def checked(*words: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run([sys.executable, str(SCRIPT), "--tiny", *words], capture_output=True, text=True, timeout=500)
    lines = {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}
    wrong = [line for line in lines.values() if line["status"] in ("FAIL", "error")]
    assert not wrong, wrong
    assert done.returncode == 0, done.stderr
    return lines


@pytest.mark.slow
def test_every_check_holds_with_small_models_on_the_cpu() -> None:
    lines = checked("--device", "cpu", "--skip", "own_process")  # tuning/test_child.py has a process of its own
    assert {name for name, line in lines.items() if line["status"] == "skip"} == ON_A_CPU_SKIPPED
    checks = {name.partition(".")[0] for name, line in lines.items() if line["status"] == "ok"}
    assert checks == {
        "devices", "decoders", "nf4_codes", "logits", "train_large", "methods", "full_is_exact", "merging",
        "peak_memory", "resume", "resume_with_less_memory", "out_of_memory",
    }  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, or APRNB_GPU is not set")
def test_every_check_holds_with_small_models_on_a_gpu() -> None:
    assert not [line for line in checked("--device", "cuda:0").values() if line["status"] == "skip"]


def test_a_broken_promise_and_an_exception_are_reported_and_the_next_check_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("smoke_report", SCRIPT.parent / "smoke" / "report.py")
    assert spec
    assert spec.loader
    report = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "smoke_report", report)
    spec.loader.exec_module(report)
    smoke = report.Smoke(torch.device("cpu"), True, tmp_path, budget_s=60)
    with smoke.case("broken") as facts:
        facts.require(holds=True, does_not=False)
    with smoke.case("raised"):
        raise ValueError("why")
    with smoke.case("told") as facts:
        facts["number"] = 3
    smoke.budget_s = 0
    assert not list(smoke.while_time("late", ["one"]))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["check"], line["status"]) for line in lines] == [
        ("broken", "FAIL"), ("raised", "error"), ("told", "info"), ("late.one", "skip"),
    ]  # fmt: skip
    assert lines[0]["broken"] == ["does_not"]
    assert lines[1]["error"] == "ValueError: why"
