import io
import re

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments import progress as module
from experiments.progress import progress, report_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def scan(bar, steps, every=1):
    def body(total, step):
        total = total + 1.0
        report_progress(bar, step, every, loss=total, accuracy=total / 10)
        return total, None

    return jax.lax.scan(body, 0.0, jnp.arange(steps))[0]


def show_progress(bar, step, **values):
    report_progress(bar, step, 1, **values)
    jax.effects_barrier()


def test_a_log_gets_a_line_per_epoch_from_inside_a_scan():
    stream = io.StringIO()
    with progress(12, batch_size=32, steps_per_epoch=4, stream=stream, description="run") as bar:
        jax.jit(scan, static_argnums=(1, 2))(bar, 12, 1)
    lines = stream.getvalue().splitlines()
    assert [line.split(", ")[0] for line in lines] == [f"run: epoch {e}/3" for e in (1, 2, 3)]
    assert "step 4/12, loss 4, accuracy 0.4" in lines[0]
    assert lines[-1].endswith("examples/s")
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_a_bar_with_values_and_rate():
    stream = Terminal()
    with progress(8, batch_size=10, stream=stream) as bar:
        jax.jit(scan, static_argnums=(1, 2))(bar, 8, 3)
    text = stream.getvalue()
    assert "80.0/80.0" in text
    assert "loss 8, accuracy 0.8" in text
    assert "examples/s" in text


def test_the_last_step_is_always_reported():
    stream = io.StringIO()
    with progress(7, stream=stream) as bar:
        jax.jit(scan, static_argnums=(1, 2))(bar, 7, 5)
    assert "step 7/7" in stream.getvalue().splitlines()[-1]


def test_one_program_serves_every_bar():
    chex.clear_trace_counter()
    run = jax.jit(chex.assert_max_traces(scan, n=1), static_argnums=(1, 2))
    for _ in range(3):
        stream = io.StringIO()
        with progress(4, stream=stream) as bar:
            run(bar, 4, 1)
        assert "step 4/4" in stream.getvalue()


def test_late_and_early_reports_are_dropped():
    stream = io.StringIO()
    with progress(10, steps_per_epoch=2, stream=stream) as bar:
        show_progress(bar, 5, loss=1)
        show_progress(bar, 3, loss=2)
    show_progress(bar, 9, loss=3)
    assert stream.getvalue().splitlines()[0].startswith("epoch 3/5, step 6/10, loss 1")
    assert "loss 2" not in stream.getvalue()
    assert "loss 3" not in stream.getvalue()
    assert not module._bars


def test_quiet_shows_nothing_and_bad_intervals_are_refused(capsys):
    with progress(3, quiet=True) as bar:
        scan(bar, 3)
        with pytest.raises(ValueError, match="every must be at least 1"):
            report_progress(bar, 0, 0)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_resumed_run_starts_where_it_was():
    stream = io.StringIO()
    with progress(8, steps_per_epoch=4, start=4, stream=stream) as bar:
        show_progress(bar, 2, loss=9)
        show_progress(bar, 7, loss=1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("epoch 2/2, step 8/8, loss 1")


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_time_before_the_first_report_is_in_no_rate(kind, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    stream = kind()
    with progress(6, batch_size=1000, steps_per_epoch=2, stream=stream) as bar:
        now = 100.0  # compilation
        for step in range(6):
            now += 0.5
            show_progress(bar, step, loss=1)
    text = stream.getvalue().replace("2.00k", "2,000")
    assert set(re.findall(r"([\d.,]+k?) ?examples/s", text)) == {"2,000"}


def test_a_first_report_has_no_rate():
    stream = io.StringIO()
    with progress(4, steps_per_epoch=2, stream=stream) as bar:
        show_progress(bar, 1, loss=1)
        show_progress(bar, 3, loss=1)
    first, second = stream.getvalue().splitlines()
    assert first == "epoch 1/2, step 2/4, loss 1"
    assert second.endswith("examples/s")
