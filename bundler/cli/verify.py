"""``bundle verify``: what is wrong with a bundle, found without running any of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bundler.catalogue import Catalogue
from bundler.cli import common
from bundler.closure import Report, rules, to_text, verify
from bundler.closure.matrix import Matrix, to_html
from bundler.closure.matrix import to_text as matrix_text
from bundler.errors import ExitCode, InputError
from bundler.recipe import Accept
from bundler.settings import cache_directory
from bundler.subject import Judged, Opener, gather
from bundler.target import ARCHITECTURES

NAME = "verify"
GROUP = "build"
SUMMARY = "prove that bundles load and run nothing from outside"
EPILOG = """\
TARGET is a directory (a prefix, or a root file system that has it), an OCI layout, an OCI or Docker archive,
docker:IMAGE, volume:NAME, or the name of a bundle that was built.  Without --run nothing of it is run.

examples:
  bundle verify shell
  bundle verify docker:shell:5.2.37 volume:bundle-runtime-1a2b3c4d5e6f
  bundle verify --prefix /opt/tools/1 --with runtime ./unpacked
  bundle verify --run --foreign alpine=DIR --html matrix.html shell
  bundle verify --signature key.pub shell
  bundle verify --explain needed-by-accident

exit status: 0 in order, 1 not in order, 2 nothing to verify there, 4 the machine lacks something
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", metavar="TARGET", nargs="*", help="what to verify")
    parser.add_argument(
        "--with",
        metavar="TARGET",
        dest="others",
        action="append",
        default=[],
        help="where a required bundle is, if not among the built ones",
    )
    parser.add_argument(
        "--signature",
        metavar="KEY",
        type=Path,
        help="public key that must have signed each target, a layout or archive",
    )
    parser.add_argument("--prefix", metavar="PATH", help="prefix of a target that does not know its own")
    parser.add_argument(
        "--arch", choices=sorted(ARCHITECTURES), default="x86_64", help="machine of a directory's files"
    )
    parser.add_argument("--run", action="store_true", dest="prove", help="start every exported command, too")
    parser.add_argument(
        "--foreign",
        metavar="[NAME=]DIR",
        action="append",
        default=[],
        help="root file system to start commands in, besides an empty one and the Debian of the build root",
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="write what --run found as a page")
    parser.add_argument(
        "--images",
        metavar="DIR",
        action="append",
        default=[],
        type=Path,
        help="further bundle files: what they accept counts",
    )
    parser.add_argument("--deep", action="store_true", help="look for undefined symbols, too")
    parser.add_argument(
        "--verbose", action="store_true", help="print information, limits and accepted findings"
    )
    parser.add_argument("--explain", metavar="RULE", help="explain a rule, or 'all', and do nothing else")
    common.add_format(parser)
    common.add_use(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.explain:
        print(explain(arguments.explain))
        return ExitCode.DONE
    if not arguments.targets:
        raise InputError("there is nothing to verify", hint="name a bundle: bundle verify shell")
    if arguments.signature:
        _check_signatures(arguments)
    with ExitStack() as stack:
        judged = open_all(arguments, stack)
        reports = [verify(one.tree, one.scope, image=one.image) for one in judged]
        matrices = _prove(judged, arguments) if arguments.prove else []
        _print(judged, reports, matrices, arguments)
    in_order = all(report.ok for report in reports) and all(matrix.ok for matrix in matrices)
    return ExitCode.DONE if in_order else ExitCode.NOT_IN_ORDER


def _check_signatures(arguments: argparse.Namespace) -> None:
    """Raise CheckError unless the key has signed every target; say what else it has signed of them."""
    from bundler.admission import admit, statements
    from bundler.oci.policy import Policy, Signed
    from bundler.oci.read import documents_beside, find_path, open_image

    policy = Policy((Signed((arguments.signature,), (), "", whole=False),), {})
    for target in arguments.targets:
        path = find_path(target, arguments.out)
        image = open_image(path)
        admit(image, path, policy, target)
        said = statements(image.digest, arguments.signature, documents_beside(path), target)
        kinds = [str(json.loads(payload)["predicateType"]) for payload in said]
        more = f", with statements of the type {', '.join(kinds)}" if kinds else ""
        print(f"{target}: {image.digest} is signed{more}", file=sys.stderr)


def _prove(judged: list[Judged], arguments: argparse.Namespace) -> list[Matrix]:
    from bundler.proof import prove, read_roots

    roots = {**_own_roots(), **read_roots(arguments.foreign)}
    matrices = [prove(one, roots, jobs=len(os.sched_getaffinity(0))) for one in judged]
    if arguments.html:
        common.write_text(arguments.html, to_html(matrices))
    return matrices


def open_all(arguments: argparse.Namespace, stack: ExitStack) -> list[Judged]:
    """The targets of a command line, each with all that it requires."""
    opener = Opener(
        stack,
        arguments.out,
        common.connector(arguments),
        prefix=arguments.prefix,
        architecture=ARCHITECTURES[arguments.arch],
    )
    subjects = [opener.open(target) for target in arguments.targets]
    others = [opener.open(target) for target in arguments.others]
    return [
        gather(
            subject,
            opener,
            [*others, *subjects],
            accepts_of(subject.name, arguments.images),
            deep=arguments.deep,
        )
        for subject in subjects
    ]


def accepts_of(name: str, images: Sequence[Path] = ()) -> tuple[Accept, ...]:
    """What the image file of a bundle accepts; a bundle that we have no file of accepts nothing."""
    known = _catalogue(images).bundles
    return known[name].accepts if "/" not in name and name in known else ()


def explain(name: str) -> str:
    """One rule, or all, for people."""
    known = rules()
    if name != "all" and name not in known:
        import difflib

        close = difflib.get_close_matches(name, known, 1)
        raise InputError(f"there is no rule {name!r}", hint=f"did you mean {close[0]!r}?" if close else None)
    chosen = known.values() if name == "all" else (known[name],)
    blocks = []
    for rule in chosen:
        lines = [f"{rule.name} ({rule.severity}): {rule.summary}"]
        for title, text in (("why", rule.explanation), ("do", rule.action)):
            lines += textwrap.wrap(f"{title}: {text}", 100, initial_indent="  ", subsequent_indent="    ")
        if rule.strings:
            lines += textwrap.wrap(
                f"looks for: {', '.join(rule.strings)}", 100, initial_indent="  ", subsequent_indent="    "
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _own_roots() -> dict[str, Path | None]:
    """Roots that are at hand without being named: an empty one, and the Debian in which recipes build."""
    from bundler.buildroot import find_buildroot
    from bundler.store import Store

    toolchain = _catalogue().toolchain("seed")
    built = find_buildroot(Store(cache_directory()), toolchain.buildroot, toolchain.links)
    return {"scratch": None, **({"debian": built} if built is not None else {})}


def _catalogue(images: Sequence[Path] = ()) -> Catalogue:
    return Catalogue(
        recipes=(common.CHECKOUT / "recipes",),
        images=(*(path.absolute() for path in images), common.CHECKOUT / "images"),
        toolchains=common.CHECKOUT / "toolchain",
    )


def _print(
    judged: list[Judged], reports: list[Report], matrices: list[Matrix], arguments: argparse.Namespace
) -> None:
    for one in judged:
        for line in one.others:
            print(f"warning: {line}", file=sys.stderr)
    if arguments.format == "json":
        records = [report.to_dict() for report in reports]
        for record, matrix in zip(records, matrices, strict=False):
            record["run"] = matrix.to_dict()
        print(json.dumps(records, indent=2))
        return
    for report in reports:
        sys.stdout.write(to_text(report, verbose=arguments.verbose))
    for matrix in matrices:
        sys.stdout.write(matrix_text(matrix))
