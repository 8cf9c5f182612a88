from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aprnb.errors import AprnbError, FileMissing, UsageProblem

MAGICS = ("apr_inspect", "apr_check", "apr_convert", "apr_merge", "apr_finetune", "apr_generate")


def run(shell, source: str):
    """The cell's result; raises what it raised."""
    outcome = shell.run_cell(source)
    outcome.raise_error()
    return outcome.result


def test_loading_imports_nothing_heavy_and_takes_less_than_150_ms():
    code = """
import sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
before, start = set(sys.modules), time.process_time()
shell.run_line_magic("load_ext", "aprnb")
took = time.process_time() - start
heavy = {"torch", "transformers", "ipywidgets", "matplotlib.figure", "itables", "pandas"}
print(took, sorted(heavy & set(sys.modules) - before))
"""
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(3)]
    took, heavy = zip(*(done.stdout.split(" ", 1) for done in runs), strict=True)
    assert {text.strip() for text in heavy} == {"[]"}
    assert min(map(float, took)) <= 0.15, "processor time, the best of three: other work may share the machine"


def test_unloading_puts_everything_back(bare_shell):
    def mine(line, cell=None):
        return "mine"

    bare_shell.magics_manager.register_function(mine, "line", "apr_check")
    matchers = list(bare_shell.Completer.custom_matchers)
    formatter = bare_shell.display_formatter.mimebundle_formatter
    bundles = len(formatter.type_printers) + len(formatter.deferred_printers)
    bare_shell.run_line_magic("load_ext", "aprnb")
    bare_shell.run_line_magic("unload_ext", "aprnb")
    assert bare_shell.find_line_magic("apr_check") is mine
    assert bare_shell.find_line_magic("apr_inspect") is None
    assert bare_shell.find_cell_magic("apr_finetune") is None
    assert bare_shell.Completer.custom_matchers == matchers
    assert len(formatter.type_printers) + len(formatter.deferred_printers) == bundles
    del bare_shell.magics_manager.magics["line"]["apr_check"]


def test_a_magic_returns_its_object_and_stores_it_on_request(shell, pocket_qwen3):
    shell.user_ns["path"] = pocket_qwen3
    report = run(shell, "%apr_check $path --as kept")
    assert report.ok
    assert shell.user_ns["kept"] is report
    assert run(shell, "assigned = %apr_inspect $path\nassigned").ok


def test_a_path_with_spaces_works_quoted_and_from_a_variable(shell, pocket_qwen3, tmp_path):
    path = tmp_path / "a folder" / "my model.apr"
    path.parent.mkdir()
    shutil.copy(pocket_qwen3, path)
    shell.user_ns["folder"] = path.parent
    assert run(shell, f'%apr_check "{path}"').ok
    assert run(shell, "%apr_check {folder}/'my model.apr'").ok


def test_set_reaches_the_architecture(shell, pocket_qwen3):
    report = run(shell, f"%apr_inspect {pocket_qwen3} --set rope_theta=5000")
    assert report.architecture.rope_theta == 5000


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%apr_finetune x.apr --rnak 3", r"unknown option --rnak \(did you mean --rank\?\)"),
        ("%%apr_finetune x.apr \\\n  --rnak 3\n", r"unknown option --rnak \(did you mean --rank\?\)"),
        ("%apr_finetune x.apr --method qlor", r"did you mean qlora\?"),
        ("%apr_finetune x.apr --rank many", "--rank 'many'; expected a whole number"),
        ("%%apr_finetune x.apr --data r.jsonl\nrnak = 3\n", r"unknown option 'rnak' \(did you mean rank\?\)"),
        ("%%apr_finetune x.apr --data r.jsonl\nrank == 3\n", "the recipe is not TOML"),
        ('%%apr_finetune x.apr --data r.jsonl\n{"instruction": "a", "response": "b"}\n', "--data and training rows"),
        ("%apr_inspect", "FILE"),
        ("%apr_convert a.apr", "TARGET"),
        ("%apr_convert a.apr b.apr --dtype q5", r"--dtype.*q5.*expected.*q4_k"),
        ("%apr_inspect a.apr b.apr", "unknown argument b.apr"),
        ("%apr_inspect a.apr --as 2x", "the name of a Python variable"),
    ],
)
def test_what_is_not_supported_is_a_readable_error(shell, cell, message):
    with pytest.raises(UsageProblem, match=message):
        run(shell, cell)


def test_errors_are_a_line_or_two_and_no_traceback(shell, capsys):
    with pytest.raises(FileMissing):
        run(shell, "%apr_inspect nowhere.apr")
    shown = capsys.readouterr()
    assert "nowhere.apr" in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err
    with pytest.raises(AprnbError) as caught:
        run(shell, "%apr_inspect nowhere.apr")
    assert len(caught.value._render_traceback_()) <= 2


@pytest.mark.parametrize("name", MAGICS)
def test_help_shows_options_and_examples(shell, name):
    text = shell.find_line_magic(name).getdoc()
    assert f"usage: %{name}" in text
    assert "--set" in text
    assert "examples:" in text
    described = shell.object_inspect_mime(f"%{name}")["text/plain"]
    assert "examples:" in described


def test_the_help_option_shows_help_and_runs_nothing(shell):
    from IPython.utils.capture import capture_output

    with capture_output() as captured:
        assert run(shell, "%apr_finetune --help") is None
    assert "--micro-batch-tokens" in captured.outputs[0].data["text/plain"]


def test_the_cell_of_the_story_is_read_as_typed(shell, pocket_qwen3, tmp_path):
    rows = tmp_path / "instruct-corpus.jsonl"
    rows.write_text(json.dumps({"instruction": "Spell fish.", "response": "f i s h"}) + "\n")
    shell.user_ns.update(base=pocket_qwen3, rows=rows, out=tmp_path / "tuned.apr")
    plan = run(
        shell,
        "%%apr_finetune $base \\\n"
        "    --method qlora --quantize-nf4 --rank 16 \\\n"
        "    --data $rows --val-split 0 \\\n"
        "    --task instruct \\\n"
        "    --output $out --verbose --plan\n",
    )
    assert (plan.recipe.method, plan.recipe.rank, plan.options.verbose) == ("qlora", 16, True)
    assert plan.to_json()["architecture"]["num_hidden_layers"]["value"] == 3
    assert not (tmp_path / "tuned.apr").exists()


def test_a_body_of_rows_is_data_and_a_body_of_toml_is_a_recipe_that_the_line_overrides(shell, pocket_qwen3):
    shell.user_ns["base"] = pocket_qwen3
    body = '{"instruction": "Spell fish.", "response": "f i s h"}\n' * 4
    plan = run(shell, f"%%apr_finetune $base --plan --val-split 0\n{body}")
    assert plan.rows == 4
    shell.user_ns["rows"] = [{"instruction": "Spell fish.", "response": "f i s h"}] * 4
    plan = run(shell, "%%apr_finetune $base --plan --data $rows --rank 8\nrank = 4\nval-split = 0\nepochs = 2\n")
    assert (plan.recipe.rank, plan.recipe.epochs) == (8, 2)


def test_a_body_that_was_copied_with_a_byte_order_mark_is_the_same(shell, pocket_qwen3):
    shell.user_ns["base"] = pocket_qwen3
    body = '{"instruction": "Spell fish.", "response": "f i s h"}\n'
    plan = run(shell, f"%%apr_finetune $base --plan --val-split 0\n\ufeff{body}")
    assert plan.rows == 1
    shell.user_ns["rows"] = [{"instruction": "Spell fish.", "response": "f i s h"}]
    plan = run(shell, "%%apr_finetune $base --plan --data $rows\n\ufeffrank = 4\r\nval-split = 0\n")
    assert plan.recipe.rank == 4


def test_convert_writes_and_returns_what_it_wrote(shell, pocket_qwen3, tmp_path):
    shell.user_ns.update(base=pocket_qwen3, out=tmp_path / "with blank")
    converted = run(shell, "%apr_convert $base {out}.apr --dtype q8 --as kept")
    assert shell.user_ns["kept"] is converted
    assert (converted.format, converted.path) == ("apr", tmp_path / "with blank.apr")
    assert run(shell, "%apr_check {out}.apr").ok
    with pytest.raises(AprnbError, match="with blank.apr exists"):
        run(shell, "%apr_convert $base {out}.apr")
    assert run(shell, "%apr_convert {out}.apr $out --set rope_theta=5000").format == "huggingface"


def test_a_container_that_is_rejected_shows_its_header_and_fails_the_cell(shell, foreign, capsys):
    shell.user_ns["old"] = foreign / "golden_v1.apr"
    with pytest.raises(AprnbError, match=r"APRN.*version 1"):
        run(shell, "%apr_inspect $old --as report")
    assert "LinearRegression" in capsys.readouterr().out
    assert shell.user_ns["report"].exit_code == 4


def test_strict_fails_the_cell_for_a_warning(shell, real):
    shell.user_ns["lying"] = real("pocket-qwen2")
    assert run(shell, "%apr_inspect $lying").ok
    with pytest.raises(AprnbError, match="flag is wrong"):
        run(shell, "%apr_inspect $lying --strict")


def test_results_are_static_without_a_browser(shell, pocket_qwen3):
    report = run(shell, f"%apr_check {pocket_qwen3}")
    bundle, _ = shell.display_formatter.format(report)
    assert "<script" not in bundle["text/html"]
    assert bundle["text/plain"] == str(report)
    assert Path(pocket_qwen3).name in bundle["text/plain"]
