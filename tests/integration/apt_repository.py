"""A local apt repository, made of packages that are written here: what an image can install from."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path


def make(directory: Path, packages: Mapping[str, Mapping[str, str]]) -> Path:
    """A flat repository (``deb [trusted=yes] file:DIR ./``).

    ``packages`` maps ``NAME_VERSION`` to files, path to text; those below ``usr/bin`` are executable.
    ``DEBIAN/control`` may hold further fields.
    """
    directory.mkdir(parents=True, exist_ok=True)
    index = ""
    for package, files in packages.items():
        name, _, version = package.partition("_")
        root = directory / "unpacked" / package
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        )
        control += f"Description: {name} for tests\n" + files.get("DEBIAN/control", "")
        for path, text in {**files, "DEBIAN/control": control}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
            (root / path).chmod(0o755 if path.startswith("usr/bin/") else 0o644)
        file = directory / f"{package}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", str(root), str(file)],
            check=True,
            capture_output=True,
        )
        data = file.read_bytes()
        index += f"{control}Filename: ./{file.name}\nSize: {len(data)}\n"
        index += f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    (directory / "Packages").write_text(index)
    return directory
