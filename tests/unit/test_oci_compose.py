"""Images put together: what fits, what conflicts, what is missing; and nothing copied."""

from dataclasses import replace
from pathlib import Path

import pytest
from closure_forge import LOADER, Forged, forge
from test_oci_image import D, F, S, image, layer, listing, tar_layer

from bundler.cli.main import main
from bundler.digest import Digest, hex_of
from bundler.errors import BundleError, InputError, Problems
from bundler.labels import Facts, Required
from bundler.oci.compose import BASE_DIGEST, PARTS, Part, compose, rebase
from bundler.oci.image import Image
from bundler.oci.layout import write_layout
from bundler.oci.read import open_image

INTERPRETER = "/lib64/ld-linux-x86-64.so.2"
# What the real curl and its library need (Debian 12), in the order of their dynamic sections.
CURL_NEEDS = ("libcurl.so.4", "libz.so.1", "libc.so.6")
LIBCURL_NEEDS = (
    "libnghttp2.so.14", "libidn2.so.0", "librtmp.so.1", "libssh2.so.1", "libpsl.so.5", "libssl.so.3",
    "libcrypto.so.3", "libgssapi_krb5.so.2", "libldap-2.5.so.0", "liblber-2.5.so.0", "libzstd.so.1",
    "libbrotlidec.so.1", "libz.so.1", "libc.so.6",
)  # fmt: skip


def part(name: str, *layers: dict[str, bytes], **config: object) -> Part:
    made = image(*(layer(files, name) for files in layers))
    return Part(name, replace(made, config=replace(made.config, labels=(), **config), reference=f"{name}:1"))


def program(*needed: str) -> bytes:
    return forge(Forged(needed=needed, interpreter=INTERPRETER, pie=True))


def library(soname: str, *needed: str) -> bytes:
    return forge(Forged(needed=needed, soname=soname))


@pytest.fixture(scope="module")
def libc() -> Part:
    return part(
        "libc", {"lib64/ld-linux-x86-64.so.2": LOADER.read_bytes(), "lib/libc.so.6": library("libc.so.6")}
    )


def test_layers_stay_and_each_is_there_once(tmp_path: Path) -> None:
    base = layer({"etc/base": b"base"}, "base")
    one = Part("one", image(base, layer({"opt/a": b"a"}, "a")))
    two = Part("two", image(base, layer({"opt/b": b"b"}, "b")))
    made = compose([one, two], reference="both:1")
    assert [item.comment for item in made.layers] == ["base 1", "a 1", "b 1"]
    assert made.layers[:2] == one.image.layers
    write_layout(tmp_path / "one", one.image)
    opened = open_image(tmp_path / "one")
    write_layout(tmp_path / "both", compose([Part("one", opened), two]))
    for item in one.image.layers:
        name = Path("blobs/sha256") / hex_of(item.diff_id)
        assert (tmp_path / "one" / name).stat().st_ino == (tmp_path / "both" / name).stat().st_ino


CONFLICTS = [
    ([("a", F, "1")], [("a", F, "2")], "has different content"),
    ([("a", F, "1")], [("a", D, "")], "is a file and a directory"),
    ([("lib", S, "usr/lib")], [("lib/x", F, "1")], "is a symlink and a directory"),
    ([("a", S, "x")], [("a", S, "y")], "leads to different places"),
    ([("d/a", F, "1")], [("d/.wh.a", F, "")], "two deletes what one has"),
    ([("d/a", F, "1")], [("d/.wh..wh..opq", F, "")], "two deletes what one has"),
]


@pytest.mark.parametrize(("first", "second", "message"), CONFLICTS)
def test_conflicts_name_both_owners(
    first: list[tuple[str, bytes, str]], second: list[tuple[str, bytes, str]], message: str
) -> None:
    parts = [Part("one", image(tar_layer(*first))), Part("two", image(tar_layer(*second)))]
    with pytest.raises(BundleError) as caught:
        compose(parts)
    assert message in str(caught.value)
    assert "one" in str(caught.value)
    assert "two" in str(caught.value)


def test_the_same_file_in_two_images_is_no_conflict() -> None:
    assert listing(compose([part("one", {"a": b"1"}), part("two", {"a": b"1", "b": b"2"})]))["a"] == b"1"


def test_two_libcs_over_one_path_are_refused(libc: Part) -> None:
    other = part("other", {"lib/libc.so.6": library("libc.so.6", "ld-linux-x86-64.so.2")})
    with pytest.raises(InputError, match=r"different content in libc .* and other"):
        compose([libc, other])


def test_curl_as_a_single_layer_is_refused_with_all_that_it_lacks_and_works_with_it(libc: Part) -> None:
    """stacker#548: curl, openssl and certificates, each one layer, lacked most of curl's libraries."""
    curl = part(
        "curl",
        {
            "usr/bin/curl": program(*CURL_NEEDS),
            "usr/lib/x86_64-linux-gnu/libcurl.so.4": library("libcurl.so.4", *LIBCURL_NEEDS),
        },
    )
    openssl = part(
        "openssl",
        {
            f"usr/lib/x86_64-linux-gnu/{name}": library(name, *needed)
            for name, needed in {
                "libssl.so.3": ("libcrypto.so.3", "libc.so.6"),
                "libcrypto.so.3": ("libc.so.6",),
            }.items()
        },
    )
    certificates = part("ca-certificates", {"etc/ssl/certs/ca.crt": b"certificate"})
    parts = [libc, curl, openssl, certificates]
    with pytest.raises(Problems) as caught:
        compose(parts)
    lacking = {name for name in LIBCURL_NEEDS if name not in ("libssl.so.3", "libcrypto.so.3", "libc.so.6")}
    assert {problem.message for problem in caught.value.problems} == {
        f"no layer has {name} where it is looked for" for name in lacking
    }
    assert all(
        "/usr/lib/x86_64-linux-gnu/libcurl.so.4 (layer curl 1)" in str(p) for p in caught.value.problems
    )
    rest = part(
        "rest", {f"usr/lib/x86_64-linux-gnu/{name}": library(name, "libc.so.6") for name in sorted(lacking)}
    )
    made = compose([*parts, rest])
    assert len(made.layers) == 5


def test_without_its_loader_nothing_starts() -> None:
    with pytest.raises(BundleError) as caught:
        compose([part("tool", {"bin/x": program("libc.so.6"), "lib/libc.so.6": library("libc.so.6")})])
    assert f"no layer has the loader {INTERPRETER}" in str(caught.value)
    assert "/bin/x (layer tool 1)" in str(caught.value)


def test_variables_are_joined_or_named() -> None:
    one = part("one", {"a": b""}, environment=("PATH=/a:/b", "LANG=C"))
    two = part("two", {"b": b""}, environment=("PATH=/b:/c", "EDITOR=vi"))
    assert compose([one, two]).config.environment == ("PATH=/a:/b:/c", "LANG=C", "EDITOR=vi")
    three = part("three", {"c": b""}, environment=("LANG=C.UTF-8",))
    with pytest.raises(InputError, match=r"one says 'C', three says 'C\.UTF-8'"):
        compose([one, three])


def test_platforms_must_agree() -> None:
    with pytest.raises(InputError, match="different platforms"):
        compose([part("one", {"a": b""}), part("two", {"b": b""}, architecture="arm64")])


def bundle(name: str, prefix: str, *requires: Image) -> Part:
    made = part(name, {f"{prefix[1:]}/x": b"x"})
    facts = Facts(name, "1", prefix, 1, tuple(Required(r.labels["bundle.name"], r.id) for r in requires))
    config = replace(made.image.config, labels=tuple(sorted(facts.to_labels().items())))
    return replace(made, image=replace(made.image, config=config))


def test_bundles_that_were_verified_together_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = bundle("runtime", "/.deps/rt/1")
    shell = bundle("shell", "/.deps/shell/1", runtime.image)
    monkeypatch.setattr("bundler.oci.compose.ImageTree", lambda found: pytest.fail("read"))
    made = compose([runtime, shell])
    assert made.labels == {PARTS: f"runtime={runtime.image.id} shell={shell.image.id}"}


def test_a_bundle_built_with_another_runtime_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = bundle("runtime", "/.deps/rt/1")
    shell = bundle("shell", "/.deps/shell/1", replace(runtime.image, annotations=(("a", "b"),)))
    other = replace(
        runtime, image=replace(runtime.image, config=replace(runtime.image.config, command=("/x",)))
    )
    seen = []
    monkeypatch.setattr("bundler.oci.compose._lacks", lambda found: seen.append(found) or [])
    compose([other, shell])
    assert seen


def test_rebase_replaces_the_base(libc: Part) -> None:
    files = {"lib64/ld-linux-x86-64.so.2": LOADER.read_bytes(), "lib/libc.so.6": library("libc.so.6")}
    new = part("libc2", {**files, "etc/new": b"new"})
    own = layer({"usr/bin/x": program("libc.so.6")}, "app")
    app = Part("app", replace(image(*libc.image.layers, own), annotations=((BASE_DIGEST, "old"),)))
    made = rebase(app, libc, new)
    assert made.layers == (*new.image.layers, own)
    assert dict(made.annotations)[BASE_DIGEST] == new.image.digest
    assert made.config == app.image.config
    with pytest.raises(InputError, match="is not the base"):
        rebase(app, new, libc)
    empty = part("empty", {"etc/nothing": b""})
    with pytest.raises(BundleError, match="no layer has the loader"):
        rebase(app, libc, empty)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        write_layout(tmp_path / "out" / name, part(name, {name: b"x"}).image)
    out = ["--out", str(tmp_path / "out")]
    assert main(["compose", "one", "two", "-o", str(tmp_path / "both"), "--tag", "both:1", *out]) == 0
    found = open_image(tmp_path / "both")
    assert capsys.readouterr().out.strip() == found.id
    assert found.reference == "docker.io/library/both:1"
    assert main(["compose", "one", "two", "-o", str(tmp_path / "both.tar"), *out]) == 0
    assert open_image(tmp_path / "both.tar").layers[0].diff_id == found.layers[0].diff_id
    assert main(["compose", "-o", str(tmp_path / "x"), *out]) == 2
    assert Digest(found.id)
