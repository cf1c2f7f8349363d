"""The smallest container: an image with one program that does nothing but end well.

Whether an engine answers and whether its containers start are two questions: runtimes fail for control
groups, limits and file systems that the engine itself never looks at.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from bundler.engine import ContainerSpec, Engine
from bundler.load import load_image
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.target import Architecture
from bundler.tree import scan

REFERENCE = "bundle-probe:1"

_ADDRESS = 0x400000
_CODE = {
    "x86_64": bytes.fromhex("31ff b83c000000 0f05"),  # xor edi,edi; mov eax,SYS_exit; syscall
    "aarch64": bytes.fromhex("000080d2 a80b80d2 010000d4"),  # mov x0,#0; mov x8,#SYS_exit; svc #0
}


def program(architecture: Architecture) -> bytes:
    """An ELF executable of one segment that calls exit(0) (System V ABI, chapters 4 and 5)."""
    code = _CODE[architecture.name]
    start = 64 + 56
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQ", 2, architecture.elf_machine, 1, _ADDRESS + start, 64, 0)
    header += struct.pack("<IHHHHHH", 0, 64, 56, 1, 0, 0, 0)
    size = start + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, architecture.page_size)
    return header + segment + code


def run_probe(engine: Engine, architecture: Architecture) -> int:
    """Run the program in a container and return its status; leaves nothing in the engine.

    Raises EngineError with what the engine said where the container does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bundle-") as work:
        file = Path(work) / "exit"
        file.write_bytes(program(architecture))
        file.chmod(0o755)
        source = source_of_tree(scan(Path(work)), Path(work), "", name="probe", version="1")
        config = ImageConfig(architecture.oci, command=("/exit",))
        image = Image((layer_of(source),), config, reference=REFERENCE)
        load_image(engine, image, REFERENCE)
    try:
        container = engine.create(ContainerSpec(REFERENCE, ("/exit",), network="none"))
        try:
            return engine.run_to_end(container)
        finally:
            engine.remove(container)
    finally:
        engine.remove_image(REFERENCE)
