"""The effects around a patch: what stays as it was besides the bytes, and what goes wrong cleanly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from elf_forge import Forged, forge, tell

from bundler.cli.main import main
from bundler.elf.edits import Edits
from bundler.elf.format import PT_DYNAMIC, PT_NULL
from bundler.elf.patch import patch_file, patch_files
from bundler.elf.place import Tier
from bundler.elf.read import ElfError, read_file
from bundler.errors import BundleError, EnvironmentLacks, Problems

RPATH = "/.deps/shell/1/lib"
EDITS = Edits(rpath=RPATH, interpreter="/.deps/rt/1/lib/ld.so")
EDITS_OF_PROGRAMS = Edits(interpreter="/.deps/rt/1/lib/ld.so")
GROWS = Forged(tight=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(forge(GROWS))
    return path


def user_attributes(path: Path) -> bool:
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("mode", [0o755, 0o444, 0o4755, 0o600])
def test_mode_times_and_attributes_stay(file: Path, mode: int, in_place: bool) -> None:
    attributes = user_attributes(file)
    file.chmod(mode)
    os.utime(file, ns=(1_000_000_007, 2_000_000_003))
    if in_place and mode == 0o444 and os.geteuid() != 0:
        with pytest.raises(ElfError, match="cannot be patched"):
            patch_file(file, EDITS, in_place=True)
        return
    result = patch_file(file, EDITS, in_place=in_place)
    status = file.stat()
    assert result.changed and result.tier is Tier.APPENDED and status.st_size == result.size_after
    assert stat.S_IMODE(status.st_mode) == mode
    assert status.st_mtime_ns == 2_000_000_003
    if attributes:
        assert os.getxattr(file, "user.note") == b"kept"
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("damage", ["lost", "shifted", "changed"])
def test_a_wrong_write_is_noticed(
    file: Path, damage: str, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(descriptor: int, data: bytes, offset: int) -> None:
        if damage != "lost":
            changed = bytes([data[0] ^ 1]) + data[1:] if damage == "changed" else data
            os.pwrite(descriptor, changed, offset + (damage == "shifted"))

    monkeypatch.setattr("bundler.elf.patch._pwrite", wrong)
    before = file.read_bytes()
    with pytest.raises(ElfError, match="not written as planned"):
        patch_file(file, EDITS, in_place=in_place)
    assert in_place or file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_nothing_to_do_is_no_write(file: Path) -> None:
    patch_file(file, EDITS)
    before = file.stat()
    result = patch_file(file, EDITS)
    assert not result.changed and result.tier is Tier.NOTHING
    assert file.stat() == before


def test_output_leaves_the_file_alone(file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    patch_file(file, EDITS, tmp_path / "new")
    assert file.read_bytes() == before
    assert tell((tmp_path / "new").read_bytes()).rpath == RPATH
    # With nothing to do, the output is a copy.
    patch_file(tmp_path / "new", EDITS, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "new").read_bytes()


def test_output_of_what_has_nothing_to_edit(tmp_path: Path) -> None:
    data = bytearray(forge(Forged(interpreter=None)))
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(64, 64 + 56 * count, 56):
        if struct.unpack_from("<I", data, at) == (PT_DYNAMIC,):
            struct.pack_into("<I", data, at, PT_NULL)
    (tmp_path / "static").write_bytes(data)
    assert not read_file(tmp_path / "static").is_dynamic
    patch_file(tmp_path / "static", EDITS_OF_PROGRAMS, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_a_symbolic_link_is_followed(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("program")
    patch_file(link, EDITS)
    assert link.is_symlink() and read_file(file).rpath == RPATH


@pytest.mark.parametrize("in_place", [False, True])
def test_hard_links_stay_one_file(file: Path, tmp_path: Path, in_place: bool) -> None:
    names = [file, tmp_path / "b", tmp_path / "sub" / "c"]
    names[2].parent.mkdir()
    for name in names[1:]:
        os.link(file, name)
    results = patch_files([(name, EDITS) for name in names], in_place=in_place)
    assert [result.path for result in results] == [str(name) for name in names]
    assert len({name.stat().st_ino for name in names}) == 1
    assert file.stat().st_nlink == 3 and read_file(names[2]).rpath == RPATH


def test_a_hard_link_that_is_not_given_is_not_forgotten(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "other")
    before = file.read_bytes()
    for files in ([file], [file, file]):
        with pytest.raises(ElfError, match="has 2 names, of which 1"):
            patch_files([(name, EDITS) for name in files])
    with pytest.raises(ElfError, match="in two ways"):
        patch_files([(file, EDITS), (tmp_path / "other", Edits(rpath="/x"))])
    assert file.read_bytes() == before


def test_holes_stay_holes(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.write(forge(Forged()))
        stream.truncate(64 << 20)
    patch_file(file, EDITS, tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == 64 << 20
    assert (tmp_path / "out").stat().st_blocks * 512 < 1 << 20


def test_a_running_program_is_replaced(tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([str(program), "60"]) as running:
        try:
            with pytest.raises(ElfError, match="cannot be patched") as caught:
                patch_file(program, Edits(rpath=RPATH), in_place=True)
            assert "running" in str(caught.value)
            patch_file(program, Edits(rpath=RPATH))
        finally:
            running.kill()
    assert read_file(program).rpath == RPATH
    assert subprocess.run([str(program), "0"], check=False).returncode == 0


def test_all_files_are_tried_and_all_problems_told(file: Path, tmp_path: Path) -> None:
    bad = [tmp_path / name for name in ("missing", "text", "short")]
    bad[1].write_text("#!/bin/sh\n")
    bad[2].write_bytes(forge(GROWS)[:100])
    with pytest.raises(Problems) as caught:
        patch_files([(name, EDITS) for name in (bad[0], bad[1], file, bad[2])])
    assert [problem.where for problem in caught.value.problems] == [str(name) for name in bad]
    assert read_file(file).rpath == RPATH


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """More files than one process takes at once, two of them not sound."""
    directory = tmp_path / "many"
    directory.mkdir()
    data = forge(GROWS)
    files = [directory / f"{number:03}" for number in range(400)]
    for file in files:
        file.write_bytes(data)
    os.link(files[0], directory / "other")
    files[70].write_bytes(data[:100])
    files[390].write_text("text")
    return [*files, directory / "other"]


def test_workers_do_what_one_process_does(many: list[Path]) -> None:
    def patch(workers: int) -> tuple[list[tuple[str, bool]], list[str], list[str]]:
        problems: list[BundleError] = []
        told: list[str] = []
        results = patch_files(
            ((file, EDITS) for file in many),
            workers=workers,
            done=lambda result: told.append(result.path),
            problems=problems,
        )
        return [(result.path, result.changed) for result in results], told, [str(p) for p in problems]

    results, told, problems = patch(3)
    assert len(results) == 399 and all(changed for _, changed in results)
    assert told == [path for path, _ in results]
    again = patch(1)
    assert [path for path, _ in again[0]] == told and not any(changed for _, changed in again[0])
    assert again[2] == problems and len(problems) == 2
    assert many[0].samefile(many[-1]) and all(read_file(Path(path)).rpath == RPATH for path in told)


def killed(share: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.elf.patch._patch_share", killed)
    with pytest.raises(EnvironmentLacks, match="was killed"):
        patch_files(((file, EDITS) for file in many), workers=2)


def test_a_refused_file_is_untouched(tmp_path: Path) -> None:
    file = tmp_path / "libc.so.6"
    file.write_bytes(forge(Forged(soname="libc.so.6")))
    before = (file.read_bytes(), file.stat())
    with pytest.raises(ElfError, match="C library"):
        patch_file(file, EDITS)
    assert (file.read_bytes(), file.stat()) == before
    assert os.listdir(tmp_path) == ["libc.so.6"]


def test_show(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["elf", "show", "--field", "needed", str(file)]) == 0
    assert capsys.readouterr().out == "libc.so.6\n"
    assert main(["elf", "show", "--format", "json", str(file), str(file)]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["interpreter"] for record in records] == ["/lib/ld.so.1"] * 2
    assert records[0]["kind"] == "position-independent executable"
    assert main(["elf", "show", str(file)]) == 0
    assert "  versions        libc.so.6: GLIBC_2.2.5\n" in capsys.readouterr().out


def test_patch(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set-rpath", RPATH, "--replace-needed", "libc.so.6", "/x/libc.so.6", "--no-default-lib"]
    assert main(["elf", "patch", *options, str(file)]) == 0
    assert (
        capsys.readouterr().out
        == f"{file}: patched (appended, {file.stat().st_size - len(forge(GROWS))} bytes more)\n"
    )
    told = tell(file.read_bytes())
    assert (told.rpath, told.needed, told.flags_1) == (RPATH, ["/x/libc.so.6"], 0x08000800)
    assert main(["elf", "patch", *options, str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: already right\n"
    assert (
        main(
            [
                "elf",
                "patch",
                "--remove-rpath",
                "--set-soname",
                "s",
                "--output",
                str(tmp_path / "o"),
                str(file),
            ]
        )
        == 0
    )
    assert tell((tmp_path / "o").read_bytes()).rpath is None


WRONG = [
    (["--set-rpath", "/a", "--set-runpath", "/b"], "the loader ignores the rpath"),
    ([], "no edit is given"),
    (["--set-interpreter", ""], "the interpreter is empty"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_usage(
    file: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["elf", "patch", *options, str(file)]) == 2
    assert message in capsys.readouterr().err


def test_shrink(tmp_path: Path) -> None:
    library, program = tmp_path / "lib" / "liba.so", tmp_path / "program"
    for directory in ("empty", "foreign", "lib"):
        (tmp_path / directory).mkdir()
    library.write_bytes(forge(Forged(soname="liba.so", interpreter=None, flags_1=None)))
    (tmp_path / "foreign" / "liba.so").write_bytes(forge(Forged(machine=183, soname="liba.so")))
    path = f"{tmp_path}/empty:{tmp_path}/foreign:$ORIGIN/lib:{tmp_path}/lib"
    program.write_bytes(forge(Forged(needed=("liba.so",), runpath=path)))
    assert main(["elf", "patch", "--shrink-rpath", str(program)]) == 0
    assert tell(program.read_bytes()).runpath == "$ORIGIN/lib"
