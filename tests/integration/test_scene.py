"""What all of this is for: Ansible installs a package in a plain image by mounting volumes, and the image
that is committed holds that package and no trace of Ansible, Python, or an empty directory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import apk_repository
import apt_repository
import foreign
import pytest
from command import Bundle
from dockerd import Dockerd
from mounted import CHECKOUT
from podmans import PrivatePodman

from bundler.recipe_file import read_bundle

PLAYBOOK = "/.deps/ansible/1/bin/ansible-playbook"
RUN = [PLAYBOOK, "-i", "localhost,", "-c", "local", "/mnt/site.yml"]

PACKAGES = {
    "greeting_1.0": {"usr/bin/greeting": "#!/bin/sh\necho hello from 1.0\n"},
    "greeting_1.1": {
        "usr/bin/greeting": "#!/bin/sh\necho hello from 1.1\n",
        "DEBIAN/control": "Depends: greeting-data (>= 1)\n",
    },
    "greeting-data_2": {"usr/share/greeting": "data\n"},
    "farewell_1.0": {"usr/bin/farewell": "#!/bin/sh\necho bye\n", "DEBIAN/control": "Provides: parting\n"},
}

SITE = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        dest: /etc/apt/sources.list
        content: "deb [trusted=yes] file:/mnt/repository ./"
        mode: "0644"
    - ansible.builtin.apt:
        name: greeting
        update_cache: "{{ update | default(false) }}"
"""

MODULE = """
- hosts: all
  gather_facts: false
  module_defaults:
    ansible.builtin.apt: {}
  tasks:
    - ansible.builtin.copy:
        dest: /etc/apt/sources.list
        content: "deb [trusted=yes] file:/mnt/repository ./"
    - ansible.builtin.apt: {update_cache: true}
    - ansible.builtin.apt: {name: "greeting=1.0"}
    - ansible.builtin.apt: {name: "greeting=1.0"}
      register: again
    - ansible.builtin.apt: {name: greeting}
      register: older_is_enough
    - ansible.builtin.apt: {name: greeting, state: latest}
      check_mode: true
      register: would
    - ansible.builtin.apt: {name: greeting, state: latest}
      register: newest
    - ansible.builtin.apt: {name: "greeting>=1.1"}
      register: new_enough
    - ansible.builtin.apt: {name: "fare*"}
      register: pattern
    - ansible.builtin.apt: {name: parting}
      register: virtual
    - ansible.builtin.apt: {name: no-such-package}
      register: unknown
      ignore_errors: true
    - ansible.builtin.apt: {name: farewell, state: absent, purge: true}
      register: removed
    - ansible.builtin.apt: {name: farewell, state: absent}
      register: gone
    - ansible.builtin.apt: {deb: /mnt/repository/farewell_1.0_all.deb}
      register: file
    - ansible.builtin.apt: {deb: /mnt/repository/farewell_1.0_all.deb}
      register: file_again
    - ansible.builtin.apt: {name: [greeting, farewell], state: absent}
    - ansible.builtin.apt: {autoremove: true}
      register: unneeded
    - ansible.builtin.assert:
        that:
          - again is not changed and older_is_enough is not changed
          - would is changed and newest is changed and new_enough is not changed
          - pattern is changed and virtual is not changed
          - unknown is failed and unknown.msg == "No package matching 'no-such-package' is available"
          - removed is changed and gone is not changed
          - file is changed and file_again is not changed
          - "'greeting-data' in unneeded.stdout"
"""


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that containers see as /mnt, which base images have."""
    directory = tmp_path_factory.mktemp("scene") / "play"
    apt_repository.make(directory / "repository", PACKAGES)
    (directory / "site.yml").write_text(SITE)
    (directory / "module.yml").write_text(MODULE)
    return directory


@pytest.fixture
def bundle(dockerd: Dockerd, built: Callable[[str], Path]) -> Bundle:
    return Bundle(built("ansible"), {**dockerd.environment, "BUNDLE_ENGINE": "docker"})


def recap(said: str) -> dict[str, int]:
    """The counts in the last line of what a playbook says."""
    line = said.strip().splitlines()[-1]
    return {
        key: int(value) for key, _, value in (word.partition("=") for word in line.split() if "=" in word)
    }


def top_layer(dockerd: Dockerd, reference: str) -> dict[str, str]:
    """Names in an image's last layer, and the texts of its plain files."""
    with tarfile.open(fileobj=io.BytesIO(dockerd.try_docker("save", reference).stdout)) as archive:
        manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        layer = archive.extractfile(archive.getmember(manifest[0]["Layers"][-1]))
        with tarfile.open(fileobj=layer) as tar:
            return {
                member.name: (tar.extractfile(member) or io.BytesIO()).read().decode("utf-8", "replace")
                if member.isfile()
                else ""
                for member in tar
            }


def is_clean(dockerd: Dockerd, reference: str, base: str, *, built: bool = False) -> None:
    """The image holds greeting, and nothing in it names us: configuration, history, paths, contents.

    Of one that was ``built`` the history tells the Dockerfile's lines, as every build's does.
    """
    before, after = (json.loads(dockerd.docker("inspect", name))[0] for name in (base, reference))
    assert after["Config"] == before["Config"]
    assert after["RootFS"]["Layers"][:-1] == before["RootFS"]["Layers"]
    layer = top_layer(dockerd, reference)
    assert "usr/bin/greeting" in layer
    ours = (".deps", "ansible", "python")
    assert [name for name in layer if any(word in name for word in ours)] == []
    # The package's own source is the play's doing; apt's logs tell of apt-get alone.
    named = [name for name, text in layer.items() if any(word in text for word in (".deps", "ansible"))]
    assert named == []
    assert built or ".deps" not in dockerd.docker("history", "--no-trunc", reference)
    assert dockerd.docker("run", "--rm", reference, "greeting") == "hello from 1.1"


@pytest.mark.engine
def test_bundle_run_and_commit(
    bundle: Bundle, dockerd: Dockerd, foreign_image: Callable[[str], str], play: Path
) -> None:
    base = foreign_image("debian")
    words = ["--with", "ansible", "--volume", f"{play}:/mnt:ro"]
    first = bundle("run", "--from", base, *words, "--commit", "scene:1", "--", *RUN, "-e", "update=true")
    assert recap(first) == {"ok": 2, "changed": 2} | dict.fromkeys(
        ("unreachable", "failed", "skipped", "rescued", "ignored"), 0
    )
    is_clean(dockerd, "scene:1", base)
    second = bundle("run", "--from", "scene:1", *words, "--commit", "scene:2", "--", *RUN)
    assert recap(second)["ok"] == 2 and recap(second)["changed"] == 0, second
    # apt keeps caches of what it reads; nothing else was to be done.
    files = [name for name, text in top_layer(dockerd, "scene:2").items() if text]
    assert [name for name in files if not name.startswith("var/cache/apt/")] == []


@pytest.mark.engine
def test_the_module_apt_needs_no_python_in_the_container(
    bundle: Bundle, foreign_image: Callable[[str], str], play: Path
) -> None:
    words = ["--with", "ansible", "--volume", f"{play}:/mnt:ro", "--"]
    run = [*RUN[:-1], "/mnt/module.yml"]
    done = bundle.run("run", "--from", foreign_image("debian"), *words, *run)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.engine
def test_plain_docker_and_scrub(
    bundle: Bundle, dockerd: Dockerd, foreign_image: Callable[[str], str], play: Path
) -> None:
    base = foreign_image("debian")
    made = []
    for reference in bundle("load", "ansible").split():
        name = reference.partition(":")[0]
        words = ["--name", f"by-hand-{name}", "--volume", prefix_of(name), reference, "no-such-cmd"]
        made.append(dockerd.docker("create", *words))
    mounts = [f"--volumes-from={one}" for one in made]
    words = ["--name", "by-hand", *mounts, "--volume", f"{play}:/mnt:ro", base]
    dockerd.docker("run", *words, *RUN, "-e", "update=true")
    changes = [line.split()[1] for line in dockerd.docker("diff", "by-hand").splitlines()]
    assert "/usr/bin/greeting" in changes
    # The mount points are all that Docker shows of the bundles, and all that its commit keeps of them.
    assert [path for path in changes if path.startswith("/.deps/") and path.count("/") > 3] == []
    dockerd.docker("commit", "by-hand", "by-hand:1")
    assert ".deps/ansible/1/" in "/\n".join(top_layer(dockerd, "by-hand:1")) + "/"
    bundle("scrub", "by-hand:1", "--base", base)
    dockerd.docker("rm", "--volumes", "by-hand", *made)
    is_clean(dockerd, "by-hand:1", base)


def prefix_of(name: str) -> str:
    file = read_bundle(CHECKOUT / f"images/{name}.toml")
    return f"/.deps/{file.short}/{file.compat}"


@pytest.mark.engine
def test_a_build_with_mounts(
    bundle: Bundle, dockerd: Dockerd, foreign_image: Callable[[str], str], play: Path
) -> None:
    base = foreign_image("debian")
    bundle("load", "ansible")
    recipe = bundle("mount", "ansible", "--for", "buildkit")
    recipe = recipe.replace("RUN ", "RUN --mount=type=bind,target=/mnt ", 1)
    recipe = recipe.replace("COMMAND", " ".join([*RUN, "-e", "update=true"]))
    (play / "Dockerfile").write_text(f"FROM {base}\n{recipe}\n")
    dockerd.docker("build", "--tag", "scene:built", "--network=none", str(play), DOCKER_BUILDKIT="1")
    bundle("scrub", "scene:built", "--base", base)
    is_clean(dockerd, "scene:built", base, built=True)


@pytest.mark.engine
def test_podman(podman: PrivatePodman, built: Callable[[str], Path], play: Path) -> None:
    bundle = Bundle(built("ansible"), {**podman.environment, "BUNDLE_ENGINE": "podman"})
    podman.podman("import", "--change", "CMD /bin/sh", str(foreign.archive("debian")), "localhost/base:1")
    words = ["--with", "ansible", "--volume", f"{play}:/mnt:ro", "--commit", "localhost/scene:1", "--"]
    bundle("run", "--from", "localhost/base:1", *words, *RUN, "-e", "update=true")
    assert podman.podman("run", "--rm", "localhost/scene:1", "greeting") == "hello from 1.1"
    base, made = (
        json.loads(podman.podman("image", "inspect", f"localhost/{name}:1"))[0] for name in ("base", "scene")
    )
    assert made["Config"] == base["Config"]
    container = podman.podman("create", "localhost/scene:1")
    exported = podman.try_podman("export", container).stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        assert [name for name in tar.getnames() if ".deps" in name or "ansible" in name] == []
    podman.podman("rm", container)
    bundle("volume", "remove", "--all")


ALPINE = os.environ.get("BUNDLE_ALPINE_ROOT")

APK_SITE = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {src: /mnt/repository/tests.rsa.pub, dest: /etc/apk/keys/, mode: "0644"}
    - community.general.apk: {name: greeting, repository: /mnt/repository}
"""


@pytest.mark.engine
@pytest.mark.skipif(ALPINE is None, reason="BUNDLE_ALPINE_ROOT names no root of Alpine")
def test_alpine(bundle: Bundle, dockerd: Dockerd, tmp_path: Path) -> None:
    """In the root that BUNDLE_ALPINE_ROOT names, a directory: what Alpine's own apk makes of it."""
    root = Path(str(ALPINE))
    greeting = {"usr/bin/greeting": PACKAGES["greeting_1.0"]["usr/bin/greeting"].replace("1.0", "1.1")}
    architecture = (root / "etc/apk/arch").read_text().strip()
    play = tmp_path / "play"
    apk_repository.make(play / "repository", architecture, {"greeting_1.1-r0": greeting})
    (play / "site.yml").write_text(APK_SITE)
    tar = subprocess.run(
        ["tar", "--numeric-owner", "-C", str(root), "-c", "."], check=True, capture_output=True
    ).stdout
    dockerd.docker("import", "--change", 'CMD ["/bin/sh"]', "-", "alpine:scene", stdin=tar)
    words = ["--with", "ansible", "--volume", f"{play}:/mnt:ro"]
    first = bundle("run", "--from", "alpine:scene", *words, "--commit", "alpine:1", "--", *RUN)
    assert (recap(first)["failed"], recap(first)["changed"]) == (0, 2), first
    is_clean(dockerd, "alpine:1", "alpine:scene")
    second = bundle("run", "--from", "alpine:1", *words, "--commit", "alpine:2", "--", *RUN)
    assert (recap(second)["ok"], recap(second)["changed"]) == (2, 0), second
