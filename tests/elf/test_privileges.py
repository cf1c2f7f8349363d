"""What only root can give a file, and a patch must not take: owners, setuid, capabilities, ACLs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from judges import tool

from bundler.elf.edits import Edits
from bundler.elf.format import ElfError
from bundler.elf.patch import patch_file, patch_files
from bundler.elf.read import read_file

EDITS = Edits(rpath="/.deps/shell/1/lib", interpreter="/.deps/rt/1/lib/ld-linux-x86-64.so.2")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "program"
    shutil.copy("/bin/true", path)
    yield path
    tool("chattr", "-i", path)


@pytest.mark.parametrize("in_place", [False, True])
def test_capabilities_owner_and_setuid_stay(program: Path, in_place: bool) -> None:
    """The kernel drops capabilities with any write, even root's."""
    os.chown(program, 1234, 2345)
    program.chmod(0o6755)
    assert tool("setcap", "cap_net_raw,cap_net_bind_service=ep", program).returncode == 0
    assert tool("setfacl", "-m", "u:4321:rx", program).returncode == 0
    before = (tool("getcap", program).stdout, tool("getfacl", "-pn", program).stdout)
    assert "cap_net_raw" in before[0] and "4321" in before[1]
    patch_file(program, EDITS, in_place=in_place)
    status = program.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o6755)
    assert (tool("getcap", program).stdout, tool("getfacl", "-pn", program).stdout) == before
    assert read_file(program).rpath == EDITS.rpath


def test_an_immutable_file_is_refused_and_stays(program: Path) -> None:
    before = program.read_bytes()
    assert tool("chattr", "+i", program).returncode == 0
    for in_place in (False, True):
        with pytest.raises(ElfError) as caught:
            patch_file(program, EDITS, in_place=in_place)
        assert "immutable" in str(caught.value)
    assert program.read_bytes() == before
    assert os.listdir(program.parent) == ["program"]


def test_linked_names_keep_capabilities(program: Path) -> None:
    assert tool("setcap", "cap_net_raw=ep", program).returncode == 0
    other = program.with_name("other")
    os.link(program, other)
    patch_files([(program, EDITS), (other, EDITS)])
    assert program.stat().st_ino == other.stat().st_ino
    assert "cap_net_raw" in tool("getcap", other).stdout
