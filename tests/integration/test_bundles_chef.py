"""Ruby, its gems and puppet in foreign roots, in the environment that a container of another Ruby sets."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command import Bundle
from dockerd import Dockerd
from mounted import Mounted, mount, with_required
from upstream import fixed_source, furnished

ANOTHER_RUBY = {
    # The official image's, and what does harm.
    "GEM_HOME": "/usr/local/bundle",
    "BUNDLE_APP_CONFIG": "/usr/local/bundle",
    "GEM_PATH": "/nowhere/gems",
    "GEMRC": "/nowhere/gemrc",
    "RUBYOPT": "-rno-such-library",
    "RUBYLIB": "/w/another",
    "BUNDLER_SETUP": "/nowhere/setup",
}


@pytest.fixture(params=["scratch", "musl", "debian"])
def there(request: pytest.FixtureRequest, foreign_root: Callable[[str], Path], tmp_path: Path) -> Mounted:
    (tmp_path / "another").mkdir()
    (tmp_path / "another/json.rb").write_text("abort 'the library of another Ruby'\n")
    return replace(
        mount(tmp_path, foreign_root(request.param), with_required("chef")),
        environment={"LC_ALL": "C.UTF-8", **ANOTHER_RUBY},
        sysfs=True,
    )


def ruby(there: Mounted, script: str) -> str:
    """What a Ruby script prints; it must succeed, and have nothing to complain of."""
    done = there.attempt([there.path("chef", "bin/ruby"), "-e", script])
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_every_extension_loads(there: Mounted) -> None:
    said = ruby(
        there,
        """
        directory = RbConfig::CONFIG["rubyarchdir"]
        names = Dir["#{directory}/**/*.so"].map { |file| file.delete_prefix("#{directory}/") }
        $VERBOSE = nil  # callcc is obsolete
        names.each { |name| require name }
        puts names.size, $LOADED_FEATURES.reject { |f| f.start_with?(RbConfig::CONFIG["prefix"]) }.grep(/\\//)
        """,
    )
    assert int(said) > 90


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('require "openssl"; puts OpenSSL::Digest.hexdigest("SHA256", "x")[0, 8]', "2d711642"),
        ('require "openssl"; puts File.exist?(OpenSSL::X509::DEFAULT_CERT_FILE)', "true"),
        (
            'require "yaml"; puts YAML.load("- ä: [1]").inspect, YAML.dump("a" => nil)',
            '[{"ä"=>[1]}]\n---\na:',
        ),
        ('require "zlib"; puts Zlib.gunzip(Zlib.gzip("packed"))', "packed"),
        ('require "json"; puts JSON.generate("ü" => 1.5)', '{"ü":1.5}'),
        ('require "bigdecimal"; puts (BigDecimal("0.1") * 3).to_s', "0.3e0"),
        ('require "reline"; puts Reline::VERSION.class', "String"),
        ('require "readline"; puts Readline == Reline', "true"),
        (
            'require "fiddle"; f = Fiddle::Function.new(Fiddle.dlopen(nil)["strlen"], [Fiddle::TYPE_VOIDP], '
            'Fiddle::TYPE_INT); puts f.call("four")',
            "4",
        ),
        (
            'require "ffi"; module C; extend FFI::Library; ffi_lib FFI::Library::LIBC; attach_function :abs, '
            "[:int], :int; end; puts C.abs(-7)",
            "7",
        ),
        ('require "socket"; a, b = UNIXSocket.pair; a.puts "through"; puts b.gets', "through"),
        ('require "etc"; puts Etc.nprocessors.positive?', "true"),
        ('puts "grüße".encode("UTF-16LE").encode("ISO-8859-1").bytesize, "ǅ".downcase', "5\nǆ"),
        ("puts `echo $0; echo a | tr a b`, system('exit 3 && true'), $?.exitstatus", "sh\nb\nfalse\n3"),
        (
            'require "pty"; PTY.spawn("echo from a terminal; exit") { |r, _, _| puts r.gets }',
            "from a terminal",
        ),
        ("puts Time.at(0).utc", "1970-01-01 00:00:00 UTC"),
    ],
)
def test_ruby(there: Mounted, script: str, expected: str) -> None:
    assert ruby(there, script).rstrip() == expected


def test_what_was_set_for_another_ruby_reaches_children_unchanged(there: Mounted) -> None:
    said = ruby(there, "puts `env`.lines.grep(/\\A(RUBY|GEM|BUNDLE)/).sort")
    assert dict(line.split("=", 1) for line in said.splitlines()) == ANOTHER_RUBY


def test_what_is_set_for_this_ruby_is_heeded(there: Mounted) -> None:
    owner = {"RUBY_OWNER": there.prefixes["chef"], "GEMRC": "", "BUNDLER_SETUP": "json"}
    said = replace(there, environment={**there.environment, **owner, "RUBYOPT": "-W0"}).attempt(
        [there.path("chef", "bin/ruby"), "-e", "0"]
    )
    assert said.stderr == "the library of another Ruby\n"


GEM = {
    "greet.gemspec": """
        Gem::Specification.new do |s|
          s.name, s.version, s.summary, s.authors = "greet", "1.0", "greets", ["nobody"]
          s.files = Dir["{ext,lib,exe}/**/*"]
          s.bindir, s.executables, s.extensions = "exe", ["greet"], ["ext/extconf.rb"]
        end
    """,
    "ext/extconf.rb": 'require "mkmf"\ncreate_makefile "greet/native"\n',
    "ext/native.c": """
        #include <ruby.h>
        static VALUE hello(VALUE self) { return rb_str_new_cstr("hello from C"); }
        void Init_native(void) { rb_define_singleton_method(rb_define_module("Greet"), "hello", hello, 0); }
    """,
    "lib/greet.rb": 'require "greet/native"\n',
    "exe/greet": '#!/usr/bin/env ruby\nrequire "greet"\nputs Greet.hello\n',
}


def test_a_gem_is_compiled_into_the_users_home(foreign_root: Callable[[str], Path], tmp_path: Path) -> None:
    """With the compiler of the bundle toolchain, in a container that has none; the prefix is read-only."""
    names = (*with_required("chef"), "toolchain")
    there = replace(mount(tmp_path, foreign_root("musl"), names), environment=ANOTHER_RUBY)
    for name, text in GEM.items():
        (tmp_path / "greet" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "greet" / name).write_text(text)
    (tmp_path / "greet/exe/greet").chmod(0o755)
    done = there.attempt(
        [
            there.path("shell", "bin/bash"),
            "-euc",
            "cd /w/greet; gem build greet.gemspec; gem install --local greet-1.0.gem;"
            "PATH=$PATH:$(ruby -e 'puts Gem.user_dir')/bin; greet;"
            "readelf -d $(find /w -name native.so | tail -1); echo 'gem \"greet\"' >Gemfile;"
            "bundle install --local; bundle exec ruby -rgreet -e 'puts Greet.hello';"
            "bundle exec sh -c 'ruby -rgreet -e \"puts Greet.hello.upcase\"'",
        ]
    )
    assert done.returncode == 0, done
    assert "hello from C\n" in done.stdout and done.stdout.endswith("hello from C\nHELLO FROM C\n"), done
    # What it links to lies in our prefixes: the container has nothing to add.
    assert "[/.deps/" in done.stdout and "NODEFLIB" in done.stdout
    assert (tmp_path / ".local/share/gem/ruby/3.3.0-bundle/gems/greet-1.0").is_dir()


MANIFEST = """
file { '/w/made': ensure => directory, mode => '0751' }
file { '/w/made/text': content => epp('/w/text.epp', { 'name' => $facts['kernel'] }) }
exec { 'count':
  command => 'echo once | cat >>/w/made/count', path => $facts['path'], provider => shell,
  creates => '/w/made/count', require => File['/w/made'],
}
sshkey { 'there.example.org':
  type => 'ssh-ed25519', key => 'AAAA', target => '/w/made/hosts', require => File['/w/made'],
}
"""


def test_puppet_brings_about_what_a_manifest_says_once(there: Mounted) -> None:
    (there.work / "site.pp").write_text(MANIFEST)
    (there.work / "text.epp").write_text("<%- | $name | -%>\nkernel <%= $name %>\n")
    apply = [there.path("chef", "bin/puppet"), "apply", "--detailed-exitcodes", "--color=false", "/w/site.pp"]
    first = there.attempt(apply)
    assert first.returncode == 2, first
    assert (there.work / "made/text").read_text() == "kernel Linux\n"
    assert (there.work / "made").stat().st_mode & 0o7777 == 0o751
    assert "there.example.org" in (there.work / "made/hosts").read_text()
    second = there.attempt(apply)
    assert second.returncode == 0, second
    assert (there.work / "made/count").read_text() == "once\n"
    assert sorted(path.name for path in there.work.iterdir()) == ["another", "made", "site.pp", "text.epp"]


def test_puppet_keeps_its_state_where_it_is_told(there: Mounted) -> None:
    (there.work / "site.pp").write_text("file { '/w/made': ensure => file }\n")
    (there.work / "conf").mkdir()
    words = ["--vardir", "/w/var", "--rundir", "/w/run", "--logdir", "/w/log", "--confdir", "/w/conf"]
    words.append("--no-manage_internal_file_permissions")
    done = there.attempt(
        [there.path("chef", "bin/puppet"), "apply", "--detailed-exitcodes", *words, "/w/site.pp"]
    )
    assert done.returncode == 2, done
    assert (there.work / "var/state").is_dir()


def test_facter_knows_the_container(there: Mounted) -> None:
    names = ["kernel", "ruby.version", "processors.count"]
    if there.root is not None and (there.root / "etc/os-release").exists():
        names.append("os.family")
    done = there.attempt([there.path("chef", "bin/facter"), "--json", *names])
    assert (done.returncode, done.stderr) == (0, ""), done
    facts = json.loads(done.stdout)
    assert (facts["kernel"], facts["ruby.version"]) == ("Linux", "3.3.8")
    assert facts.get("os.family", "Debian") == "Debian" and facts["processors.count"] > 0


TESTED = (
    "bigdecimal", "date", "digest", "erb", "etc", "fiddle", "json", "openssl", "pathname", "psych", "ripper",
    "socket", "stringio", "strscan", "test_pty.rb", "test_syslog.rb", "uri", "zlib",
)  # fmt: skip
"""Of Ruby's own tests, those of what is compiled and of what it links to."""

NOT_HERE = "/linker_script|addrinfo_timeout|no_memory_leak/"
"""Tests of linker scripts in the container's /lib, which our loader does not look into; of a service by its
name, which small images have no /etc/services for; and of memory within a time that a busy machine does not
keep."""


@pytest.mark.slow
@pytest.mark.parametrize("root", ["scratch", "musl", "debian"])
def test_rubys_own_tests(foreign_root: Callable[[str], Path], tmp_path: Path, root: str) -> None:
    (tmp_path / "w").mkdir()
    there = mount(tmp_path / "w", furnished(foreign_root(root), tmp_path), with_required("chef"))
    source = fixed_source("ruby", there.work / "src")
    # Where /lib has a musl, the tests of Fiddle take it for the C library that runs them, and load it, too.
    helper = source / "test/fiddle/helper.rb"
    helper.write_text(helper.read_text().replace("libc.musl*.so*", "no-such-library"))
    program = there.path("chef", "bin/ruby")
    (there.work / "miniruby").symlink_to(program)
    owner = {"LC_ALL": "C.UTF-8", "RUBY_OWNER": there.prefixes["chef"], "RUBY": program}
    here = replace(there, environment=owner, sysfs=True)
    basic = here.attempt([program, "-W1", "/w/src/basictest/test.rb"])
    assert basic.returncode == 0 and "end of test" in basic.stdout, basic
    words = [f"--ruby={program}", "--color=never", "--tty=no", f"--name=!{NOT_HERE}", *TESTED]
    done = here.attempt([program, "/w/src/test/runner.rb", *words], timeout=1800)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.findall(r"^(\d+) tests, .* 0 failures, 0 errors", done.stdout, re.MULTILINE)[0]) > 3000


PACKAGE = """
package { 'greeting': ensure => installed, provider => dpkg, source => '/play/greeting_1_all.deb' }
service { 'nothing': ensure => stopped, provider => base, status => '/bin/false' }
"""


@pytest.mark.engine
def test_an_image_made_with_puppet_knows_nothing_of_it(
    dockerd: Dockerd, built: Callable[[str], Path], foreign_image: Callable[[str], str], tmp_path: Path
) -> None:
    bundle = Bundle(built("chef"), {**dockerd.environment, "BUNDLE_ENGINE": "docker"})
    package = tmp_path / "package"
    for name, text in {
        "DEBIAN/control": "Package: greeting\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\n"
        "Description: greets\n",
        "usr/bin/greeting": "#!/bin/sh\necho hello\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (package / "usr/bin/greeting").chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", package, tmp_path / "greeting_1_all.deb"],
        check=True,
        capture_output=True,
    )
    (tmp_path / "site.pp").write_text(PACKAGE)
    base = foreign_image("debian")
    words = ["--with", "chef", "--volume", f"{tmp_path}:/play:ro"]
    apply = ["--", "puppet", "apply", "--color=false", "/play/site.pp"]
    first = bundle("run", "--from", base, *words, "--commit", "greeting:1", *apply)
    assert "Package[greeting]/ensure: created" in first
    before, after = (json.loads(dockerd.docker("inspect", name))[0] for name in (base, "greeting:1"))
    assert after["Config"] == before["Config"]
    assert dockerd.docker("run", "--rm", "greeting:1", "greeting") == "hello"
    second = bundle("run", "--from", "greeting:1", *words, "--commit", "greeting:2", *apply)
    assert "created" not in second
    layers = [
        json.loads(dockerd.docker("inspect", name))[0]["RootFS"] for name in ("greeting:1", "greeting:2")
    ]
    assert layers[0] == layers[1]
    container = dockerd.docker("create", "greeting:1")
    changes = dockerd.docker("diff", container)
    dockerd.docker("rm", container)
    assert changes == ""
