"""Messages, progress bars and tables, on a real terminal and without one."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from netkit.cli.console import print_table

COLOR = re.compile(r"\x1b\[(\d+;)*(3[0-8]|9[0-7])[;m]")  # ECMA-48 SGR: a foreground color
LONG = "/".join(["folder"] * 60) + "/[red]a[/red] :cat: {x}.png"

BAR = """
from netkit.api.progress import progress_bar
from netkit.cli.console import Terminal
with progress_bar("in[f]er", console=Terminal(), show={show}) as report:
    for done in range(100, 3001, 100):
        report(done, 3000, "[/x] {{y}}")
print("done")
"""


def run(program: str, *, terminal: bool, **environment: str) -> tuple[str, str]:
    """Run `program` with stderr on a terminal or a pipe; return its stdout and its stderr."""
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    clean |= {"TERM": "xterm-256color", "COLUMNS": "120", **environment}
    reader, writer = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen([sys.executable, "-c", program], env=clean, stdout=subprocess.PIPE, stderr=writer) as process:
        os.close(writer)
        errors = b""
        try:
            while chunk := os.read(reader, 65536):
                errors += chunk
        except OSError:  # raised by Linux after the last output on a terminal
            pass
        os.close(reader)
        assert process.stdout is not None
        output = process.stdout.read().decode()
    assert process.returncode == 0, errors
    return output, errors.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """`text` without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}])
def test_no_bar_is_shown_if_stderr_is_not_a_terminal(environment: dict[str, str]) -> None:
    program = BAR.format(show=True)
    of_api = program.replace("console=Terminal()", "console=None")
    for with_bar in (program, of_api):
        assert run(with_bar, terminal=False, **environment) == ("done\n", "")


def test_no_bar_is_shown_if_show_is_false() -> None:
    assert run(BAR.format(show=False), terminal=True) == ("done\n", "")


def test_a_bar_shows_count_speed_and_note_without_markup_and_is_erased_at_the_end() -> None:
    output, errors = run(BAR.format(show=True), terminal=True)
    frame = [line for line in re.split(r"[\r\n]", plain(errors)) if line.strip()][-1]
    assert re.match(r"in\[f\]er .* 3000/3000 +[\d,]+ images/s 0:00:00 \[/x\] \{y\}", frame)
    assert errors.endswith("\x1b[2K") and output == "done\n"  # the bar's line is erased


def test_a_narrow_terminal_cuts_the_text_beside_the_bar_and_keeps_one_line() -> None:
    note = "epoch 59, loss 0.250, train 98.77%, test 97.00%"
    errors = run(BAR.format(show=True).replace("[/x] {y}", note), terminal=True, COLUMNS="80")[1]
    frames = [line.strip() for line in re.split(r"[\r\n]", plain(errors)) if line.strip()]
    assert all("loss" in frame and len(frame) <= 80 for frame in frames), frames


def test_the_variable_no_color_removes_the_colors_of_the_bar() -> None:
    assert COLOR.search(run(BAR.format(show=True), terminal=True)[1])
    without_color = run(BAR.format(show=True), terminal=True, NO_COLOR="1")[1]
    assert "3000/3000" in plain(without_color) and not COLOR.search(without_color)


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_are_not_wrapped_colored_or_parsed_as_markup(terminal: bool) -> None:
    program = "import logging; from netkit.cli.console import open_terminal\n"
    program += "open_terminal(); terminal = open_terminal()\n"  # a second terminal does not print messages twice
    program += (
        f"terminal.print({LONG!r}); logging.getLogger('netkit.images.decoder').info('%s: 1,234 files', {LONG!r})\n"
    )
    program += "logging.getLogger('netkit.infer').debug('hidden'); logging.getLogger('others').info('hidden')"
    expected = f"{LONG}\n{LONG}: 1,234 files\n"
    assert run(program, terminal=terminal, COLUMNS="40") == ("", expected)


TABLE = [
    {"net_name": LONG, "parameters": 97298, "share": 0.5, "shape": (1, 28, 28)},
    {"net_name": "b", "parameters": 6, "share": 0.25, "shape": (3, 2)},
]


def test_a_table_on_a_pipe_is_not_truncated_and_separates_thousands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(TABLE)
    header, *lines = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", header.strip()) == ["net name", "parameters", "share", "shape"]
    assert [re.split(r"  +", line.strip()) for line in lines] == [
        [LONG, "97,298", "0.500", "1 x 28 x 28"],
        ["b", "6", "0.250", "3 x 2"],
    ]
    assert lines[0].index("97,298") + 6 == lines[1].index(" 6 ") + 2  # right-aligned
    assert max(map(len, lines)) < len(LONG) + 40


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}])
def test_a_table_on_a_pipe_has_no_escape_sequences(environment: dict[str, str]) -> None:
    program = f"from netkit.cli.console import print_table; print_table({TABLE!r})"
    output, errors = run(program, terminal=True, **environment)
    assert errors == "" and "\x1b" not in output and LONG in output


def test_a_narrow_terminal_wraps_the_longest_column_of_a_table_and_cuts_nothing_off() -> None:
    detail = "libcuda.so.1 cannot be loaded: " + "x" * 100
    program = f"""if True:
        import os, sys
        os.dup2(2, 1)  # stderr is a terminal
        from netkit.cli.console import print_table
        print_table([dict(check="CUDA", status="FAILED", detail={detail!r}, accuracy="9.50%")])
        print_table([dict(check="CUDA", accuracy="100.00%"), dict(check="", accuracy="-")])"""
    lines = plain(run(program, terminal=True, COLUMNS="60")[1]).splitlines()
    first, last = lines[1], lines[-1]
    assert max(map(len, lines)) <= 60 and first.startswith("CUDA   FAILED  libcuda.so.1") and first.endswith("9.50%")
    assert "".join(line[15:-10].strip() for line in lines[1:-3]).count("x") == 100
    assert last.rindex("-") == len(last.rstrip()) - 1 == lines[-2].rindex("%")  # numbers are right-aligned


def test_warnings_have_a_prefix() -> None:
    program = "import logging; from netkit.cli.console import open_terminal; open_terminal()\n"
    program += "logging.getLogger('netkit.a').warning('%s: dark', 'x.png'); logging.getLogger('netkit').info('done')"
    assert run(program, terminal=False) == ("", "warning: x.png: dark\ndone\n")


def test_the_bar_of_train_shows_epoch_loss_accuracy_speed_and_remaining_time(tmp_path: Path) -> None:
    arguments = ["train", "--arch", "residual", "--data", "digits", "--epochs", "3", "--no-export-check"]
    arguments += ["--out", str(tmp_path / "run")]
    output, errors = run(f"import netkit.cli; netkit.cli.cli({arguments})", terminal=True)
    shown = plain(errors)
    counts, note = r"\d+/\d+ [\d,]+ images/s \d:\d\d:\d\d", r"epoch \d, loss \d\.\d{3}"
    assert re.search(rf"residual .*{counts} {note}, train \d+\.\d\d%, test \d+\.\d\d%", shown)
    assert [line[:9] for line in shown.splitlines() if re.match(r"epoch \d: ", line)] == ["epoch 3: "]
    assert output.endswith("%\n") and "images/s" not in output
