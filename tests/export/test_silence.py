"""Only torch's own output is discarded during an export; other threads and other packages print and log as usual."""

import logging
import sys
import threading

import pytest

from netkit.export.silence import silent


def test_another_thread_prints_and_logs_while_this_one_is_silent(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        print("other thread")
        print("its error", file=sys.stderr)
        logging.getLogger("torch.onnx").warning("its log")

    with silent():
        print("graph of many lines")
        print("partial graph", file=sys.stderr)
        logging.getLogger("torch.onnx").warning("many lines")
        logging.getLogger("onnxscript.new").warning("many more")
        logging.getLogger("mine").warning("my log")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    out, err = capsys.readouterr()
    assert out == "other thread\n"
    assert err.startswith("its error\n") and "many" not in err  # torch may have a handler that prints "its log", too
    assert [record.getMessage() for record in caplog.records] == ["my log", "its log"]


def test_output_continues_after_the_block_even_if_it_raises(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError), silent():
        raise ValueError
    print("after")
    logging.getLogger("onnxscript").warning("after")
    assert capsys.readouterr().out == "after\n" and caplog.messages == ["after"]
