"""What a person sees on a terminal, and that files and pipes see nothing of it. No TensorFlow."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from io import StringIO

import pytest

import common
from runtime import terminal

TRAINING = """
import sys, time
import common
from runtime import terminal
from uninterrupt import Uninterrupt

log = terminal.setup_logging("train")
terminal.log_to(sys.argv[1])
log.info("Starting training from iteration 10.")
with Uninterrupt() as u, terminal.bar(30, "iter", initial=10, images_per_step=8) as bar:
    for iteration in range(11, 31):
        time.sleep(0.02)
        log.info(f"iter:{iteration:6d}, loss 0.5", extra=terminal.ON_LIVE_LINE)
        if iteration == 15:
            log.warning("The embedding has collapsed.")
            time.sleep(float(sys.argv[2]))
        bar.set_postfix_str(f"loss {1 / iteration:.3f}, batch-p@3 45.3%", refresh=False)
        bar.update()
        if u.interrupted:
            break
log.info("The end.")
"""


def on_terminal(*argv, columns=80, typed=None, **environment):
    """Run Python with a terminal as stdin and stderr. Returns: what it wrote.

    typed: keys to press, and the text that they are pressed after.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *argv],
        stdin=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is for it, not for pytest
        cwd=common.HERE,
        env=os.environ | environment,
    )
    os.close(theirs)
    seen = b""
    with process:
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if typed and typed[1] in seen:
                os.write(ours, typed[0])
                typed = None
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


def screen(seen, columns=80):
    """The lines that stand there in the end: carriage returns go back, what comes over it replaces
    what was there.
    """
    lines = []
    for line in re.sub(r"\x1b\[\d*m", "", seen).split("\n"):
        cells = []
        for part in line.split("\r"):
            cells[: len(part)] = part
            assert not part.startswith("iter") or len(part) <= columns, f"it wraps: {part!r}"
        lines.append("".join(cells).rstrip())
    return lines


def test_a_terminal_has_one_live_line_below_all_others(tmp_path):
    lines = screen(on_terminal("-c", TRAINING, str(tmp_path / "train.log"), "0.2"))
    assert len(lines) == 5 and lines[-1] == ""
    assert re.fullmatch(r"\S+ \S+ \[INFO\] train: Starting training from iteration 10\.", lines[0])
    assert re.fullmatch(r"\S+ \S+ \[WARNING\] train: The embedding has collapsed\.", lines[1])
    live = r"iter 30/30 \|█+\| \d+(\.\d)? img/s, 00:00 left, loss 0\.033, batch-p@3 45\.3%"
    assert re.fullmatch(live, lines[2]), lines[2]
    assert re.fullmatch(r"\S+ \S+ \[INFO\] train: The end\.", lines[3])


def test_the_live_line_is_drawn_again_and_again(tmp_path):
    seen = on_terminal("-c", TRAINING, str(tmp_path / "train.log"), "0.2")
    steps = [int(step) for step in re.findall(r"iter (\d+)/30", seen)]
    assert steps == sorted(steps) and steps[0] == 10 and len(set(steps)) >= 3


def test_files_and_pipes_have_a_plain_line_for_each_iteration(tmp_path):
    on_terminal("-c", TRAINING, str(tmp_path / "terminal.log"), "0")
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path / "pipe.log"), "0"],
        capture_output=True,
        text=True,
        cwd=common.HERE,
    )
    assert done.returncode == 0 and done.stdout == ""
    texts = [
        (tmp_path / "terminal.log").read_text(),
        (tmp_path / "pipe.log").read_text(),
        done.stderr,
    ]
    assert texts[1] == texts[2]
    for text in texts:
        messages = [line.split(" ", 2)[2] for line in text.splitlines()]
        iterations = [f"[INFO] train: iter:{iteration:6d}, loss 0.5" for iteration in range(11, 31)]
        iterations.insert(5, "[WARNING] train: The embedding has collapsed.")
        assert messages == [
            "[INFO] train: Starting training from iteration 10.",
            *iterations,
            "[INFO] train: The end.",
        ]


@pytest.mark.parametrize("environment, colored", [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours(environment, colored, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    seen = on_terminal("-c", TRAINING, str(tmp_path / "train.log"), "0", **environment)
    assert ("\x1b[33m[WARNING]\x1b[0m" in seen) == colored == ("\x1b[" in seen)
    assert "\x1b" not in (tmp_path / "train.log").read_text()


def test_ctrl_c_is_answered_on_a_line_of_its_own(tmp_path):
    seen = on_terminal(
        "-c", TRAINING, str(tmp_path / "train.log"), "2", typed=(b"\x03", b"collapsed")
    )
    lines = screen(seen)
    (answer,) = (
        number for number, line in enumerate(lines) if "SIGINT received: finishing" in line
    )
    # The terminal may echo the key right before the line is written.
    assert lines[answer].removeprefix("^C") == (
        "SIGINT received: finishing the current iteration. Press again to quit immediately."
    )
    assert not any("^C" in line for line in lines[answer + 1 :])
    assert re.match(r"iter 15/30 \|.*batch-p@3 45\.3%$", lines[answer + 1])
    assert lines[answer + 2].endswith("The end.")


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_the_live_line_fits_into_other_terminals(tmp_path, columns):
    lines = screen(
        on_terminal("-c", TRAINING, str(tmp_path / "train.log"), "0", columns=columns), columns
    )
    assert (
        len(lines) == 5
        and lines[2].startswith("iter 30/30 |")
        and len(lines[2]) == min(columns, len(lines[2]))
    )


class Terminal(StringIO):
    """In place of stderr, and the clock of what is shown there."""

    now = 1000.0

    def __init__(self, monkeypatch):
        super().__init__()
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)
        monkeypatch.setattr(sys, "stderr", self)

    def isatty(self):
        return True

    def live_line(self):
        return self.getvalue().split("\r")[-1].rstrip()


def test_speed_and_time_left_of_a_resumed_run_are_its_own(monkeypatch):
    fake = Terminal(monkeypatch)
    with terminal.bar(1000, "iter", initial=500, images_per_step=32) as bar:
        for _ in range(10):
            fake.now += 0.5
            bar.update()
        # 490 iterations of half a second are left.
        assert re.fullmatch(r"iter 510/1000 \|.*\| 64 img/s, 04:05 left", fake.live_line())


def test_a_slow_first_step_is_forgotten_and_one_later_changes_little(monkeypatch):
    fake = Terminal(monkeypatch)
    with terminal.bar(10000, "iter", images_per_step=10) as bar:
        for seconds in [60.0] + [0.5] * 300:
            fake.now += seconds
            bar.update()
        assert fake.live_line().endswith(
            "| 20 img/s, 1:20:49 left"
        )  # 9699 iterations of half a second
        fake.now += 1.0
        bar.update()
        assert "| 19 img/s" in fake.live_line()  # not 10


def test_images_are_counted_when_they_are_the_steps(monkeypatch):
    fake = Terminal(monkeypatch)
    with terminal.bar(1000, "img") as bar:
        for _ in range(4):
            fake.now += 40
            bar.update(100)
        assert re.fullmatch(r"img 400/1000 \|.*\| 2\.5 img/s, 04:00 left", fake.live_line())


def test_nothing_is_shown_when_not_asked_for(monkeypatch):
    fake = Terminal(monkeypatch)
    with terminal.bar(2, "img", show=False) as bar:
        bar.set_postfix_str("loss 1", refresh=False)
        bar.update(2)
    assert fake.getvalue() == ""


def test_a_reader_who_leaves_does_not_end_the_run(tmp_path):
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "train.log"), "0.5"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=common.HERE)
    process.stderr.readline()
    process.stderr.close()
    process.wait()
    assert (tmp_path / "train.log").read_text().endswith("The end.\n")


def test_columns_are_aligned_to_the_left():
    assert terminal.columns([["a", "bcd", ""], ["ef", "g", "h"]]) == ["a   bcd", "ef  g    h"]


def test_a_line_that_is_to_wait_appears_after_its_delay(monkeypatch):
    fake = Terminal(monkeypatch)
    with terminal.bar(20, "files", delay=1) as bar:
        fake.now += 0.9
        bar.update(9)
        assert fake.getvalue() == ""
        fake.now += 0.9
        bar.update(9)
        assert re.fullmatch(r"files 18/20 \|.*\| 10 img/s, 00:00 left", fake.live_line())


def test_what_happens_while_a_line_is_paused_counts_for_nothing(monkeypatch):
    fake = Terminal(monkeypatch)
    with terminal.bar(1000, "iter", images_per_step=32) as bar:
        for _ in range(10):
            fake.now += 0.5
            bar.update()
        before = fake.live_line()
        with terminal.paused(bar):
            assert not fake.live_line()
            with terminal.bar(300, "validation img", leave=False) as inner:
                fake.now += 100
                inner.update(200)
                terminal.say("a warning")
                assert fake.live_line().startswith("validation img 200/300 |")
        assert not fake.live_line()
        fake.now += 0.5
        bar.update()
        assert before.endswith("| 64 img/s, 08:15 left")
        assert re.fullmatch(r"iter 11/1000 \|.*\| 64 img/s, 08:14 left", fake.live_line())


def test_a_line_that_is_not_shown_can_be_paused(monkeypatch):
    fake = Terminal(monkeypatch)
    with terminal.bar(10, "iter", show=False) as bar, terminal.paused(bar):
        fake.now += 1
    assert fake.getvalue() == ""
