import pytest

from bundler.relocate import Context, relocate_link, relocate_text

CONTEXT = Context(
    loader="/.deps/rt/1/lib/ld-linux-x86-64.so.2",
    rpath=("/.deps/rt/1/lib", "/.deps/shell/1/lib"),
    prefixes=("/.deps/rt/1", "/.deps/shell/1"),
    commands={"sh": "/.deps/rt/1/bin/sh", "bash": "/.deps/shell/1/bin/bash"},
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"#!/bin/sh\nx", b"#!/.deps/rt/1/bin/sh\nx"),
        (b"#! /bin/sh -e \nx", b"#!/.deps/rt/1/bin/sh -e\nx"),
        (b"#!/usr/bin/env bash\nx", b"#!/.deps/shell/1/bin/bash\nx"),
        (b"#!/usr/bin/env -S bash -x -y\nx", b"#!/.deps/shell/1/bin/bash -x -y\nx"),
        (b"#!/usr/bin/env A=1 bash\nx", b"#!/usr/bin/env A=1 bash\nx"),
        (b"#!/.deps/rt/1/bin/sh\nx", b"#!/.deps/rt/1/bin/sh\nx"),
        (b"#!/usr/bin/perl\nx", b"#!/usr/bin/perl\nx"),
        (b"prefix=/build/dest/.deps/shell/1\n", b"prefix=/.deps/shell/1\n"),
        (b"\0#!/bin/sh /build/dest\n", b"\0#!/bin/sh /build/dest\n"),
        (b"#!/bin/sh", b"#!/bin/sh"),
        (b"", b""),
    ],
)
def test_text(before: bytes, after: bytes) -> None:
    assert relocate_text(before, CONTEXT) == after
    assert relocate_text(after, CONTEXT) == after


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("/.deps/shell/1/bin/sh", "bash", "bash"),
        ("/.deps/shell/1/bin/sh", "/.deps/shell/1/bin/bash", "bash"),
        ("/.deps/shell/1/lib/x", "/build/dest/.deps/shell/1/bin/bash", "../bin/bash"),
        ("/.deps/shell/1/bin/sh", "/.deps/rt/1/bin/sh", "/.deps/rt/1/bin/sh"),
        ("/.deps/shell/1/bin/sh", "/etc/x", "/etc/x"),
        ("/.deps/shell/10/x", "/.deps/shell/1/y", "/.deps/shell/1/y"),
    ],
)
def test_links(path: str, before: str, after: str) -> None:
    assert relocate_link(path, before, CONTEXT) == after
