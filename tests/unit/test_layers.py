"""A module imports only from lines above its own, and from what stands left of it on its line."""

import ast
from pathlib import Path

import bundler

PACKAGE = Path(bundler.__file__).parent

LINES = [
    ["errors", "digest", "events"],
    ["target", "settings", "tree", "globs", "toml_positions", "toml", "elf"],
    ["recipe", "style", "lock_file", "wheel_lock", "recipe_file", "catalogue", "pin"],
    ["plan", "key", "graph", "relocate", "closure", "labels", "oci", "traces", "scrub", "mount"],
    [
        "process",
        "signing",
        "admission",
        "debian_index",
        "debian",
        "tree_writer",
        "unpack",
        "download",
        "pypi",
        "npm",
        "git_source",
        "fetch",
        "store",
        "gc",
        "upstream",
        "corresponding",
        "survey",
        "versions",
        "osv",
        "advisories",
        "holders",
    ],
    [
        "jobserver",
        "sandbox",
        "buildroot",
        "build_log",
        "build_request",
        "build_layout",
        "installed",
        "registry",
        "engine",
        "load",
        "volume",
        "probe",
        "subject",
        "proof",
        "run",
        "namespace",
        "doctor",
        "relocation",
        "build",
        "node_request",
        "assemble",
    ],
    ["progress", "pipeline", "upgrade", "adopt", "provenance"],
    ["cli", "__main__"],
]


def place(module: str) -> tuple[int, int]:
    for number, line in enumerate(LINES):
        if module in line:
            return number, line.index(module)
    raise AssertionError(f"{module} has no place in docs/architecture.md")


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bundler"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("bundler.")}
    return found - {"__version__"}


def test_imports_point_upwards() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        module = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        wrong += [
            f"{file.relative_to(PACKAGE)} imports {other}"
            for other in sorted(imports(file))
            if other != module and place(other) >= place(module)
        ]
    assert not wrong
