from __future__ import annotations

import subprocess
import sys

from aprnb.display.curve import curve_words, figure_png, training_curve

STEPS = [{"step": n, "loss": 4.0 / n, "learning_rate": 1e-4 / n} for n in range(1, 41)]
EVALS = [{"step": n, "eval_loss": 3.0 / (n + 1)} for n in (0, 20, 40)]


def test_the_curve_is_a_png_and_the_same_each_time():
    png = figure_png(training_curve(STEPS, EVALS))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png == figure_png(training_curve(STEPS, EVALS))


def test_the_figure_shows_both_losses_and_the_learning_rate():
    losses, rate = training_curve(STEPS, EVALS).axes
    lines = {line.get_label(): list(line.get_xdata()) for line in losses.get_lines()}
    every = [row["step"] for row in STEPS]
    assert lines["training loss"] == lines["smoothed"] == every
    assert lines["held-out loss"] == [0, 20, 40]
    assert list(rate.get_lines()[0].get_ydata()) == [row["learning_rate"] for row in STEPS]


def test_a_few_steps_are_markers_and_are_not_smoothed():
    losses, _ = training_curve(STEPS[:1], []).axes
    (line,) = losses.get_lines()
    assert (line.get_label(), line.get_marker()) == ("training loss", "o")


def test_a_long_run_is_a_picture_of_the_same_size():
    steps = [{"step": n, "loss": 1 + (n * 7919 % 100) / n, "learning_rate": 1e-4} for n in range(1, 10_001)]
    assert len(figure_png(training_curve(steps, EVALS))) < 60_000


def test_a_curve_without_steps_can_be_drawn():
    assert figure_png(training_curve([], []))
    assert curve_words([], []) == "training curve without steps"


def test_the_words_name_first_and_last_losses():
    assert curve_words(STEPS, EVALS) == (
        "training loss from 4.0000 to 0.1000 over 40 steps; held-out loss from 3.0000 to 0.0732"
    )


def test_drawing_does_not_import_pyplot():
    code = (
        "import sys; from aprnb.display.curve import *; figure_png(training_curve([], [])); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
