from __future__ import annotations

from pathlib import Path

from bundler.build_log import BuildLog
from bundler.events import Event, TaskAdvanced


def test_lines_steps_and_notes(tmp_path: Path) -> None:
    events: list[Event] = []
    with BuildLog(tmp_path / "logs/x.log", "build x", events.append) as log:
        log.step("configure", 0)
        log.write(b"one\ntw")
        log.write(b"o\n")
        log.step("build", 1)
        log.write(b"50%\r100%\r\n\x1b[1mbold\x1b[0m\tx \xff\nlast")
        assert log.tail(20) == ["one", "two", "100%", "?[1mbold?[0m    x \ufffd", "last"]
        assert log.tail(2) == ["?[1mbold?[0m    x \ufffd", "last"]
    assert (tmp_path / "logs/x.log").read_bytes() == (
        b"==> configure\none\ntwo\n==> build\n50%\r100%\r\n\x1b[1mbold\x1b[0m\tx \xff\nlast"
    )
    assert events == [
        TaskAdvanced("build x", 0, "configure"),
        TaskAdvanced("build x", 0, "configure: one"),
        TaskAdvanced("build x", 1, "build"),
    ]


def test_endless_lines_take_bounded_memory(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "x.log", "x", lambda event: None) as log:
        for _ in range(50):
            log.write(b"x" * 100_000)
        assert len(log.tail(1)[0]) <= 4096
