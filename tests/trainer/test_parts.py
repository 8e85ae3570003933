"""The launcher's small parts: settings, routes, log lines, evidence, pages."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlenv
from mlenv import forkserver, page
from mlenv.launch import config, procs, programs
from mlenv.launch.logs import MAX_LINE, Lines, mask, root_cause
from mlenv.launch.route import MAX_HOPS, Route
from mlenv_api.protocol import Progress

A, B, C = "http://a:1", "http://b:1", "http://c:1"


class TestConfig:
    def test_a_pod(self) -> None:
        env = {
            "MLENV_OPERATOR_URLS": " http://10.0.0.1:8080/ , http://op.ns.svc:8080",
            "MLENV_NODE_INDEX": "1",
            "MLENV_NUM_NODES": "2",
            "MLENV_NUM_PROC_PER_NODE": "8",
            "MLENV_POD_IP": "10.1.0.5",
            "MLENV_TERMINATION_GRACE_SECONDS": "60",
        }
        cfg = config.read(["train.py", "--lr", "1"], env)
        assert cfg.urls == ("http://10.0.0.1:8080", "http://op.ns.svc:8080")
        assert (cfg.index, cfg.num_nodes, cfg.procs, cfg.address) == (1, 2, 8, "10.1.0.5")
        assert cfg.program == (sys.executable, "train.py", "--lr", "1")
        assert cfg.grace == 58.0
        assert not cfg.alone

    @pytest.mark.parametrize(
        ("argv", "program", "count"),
        [
            (["--", "sh", "-c", "x"], ("sh", "-c", "x"), 1),
            (["--nproc-per-node=3", "--", "-m", "pkg", "--flag"], (sys.executable, "-m", "pkg", "--flag"), 3),
            (["--nproc-per-node", "2", "a.py"], (sys.executable, "a.py"), 2),
            (["bin/prog", "--nproc-per-node", "2"], ("bin/prog", "--nproc-per-node", "2"), 1),
        ],
    )
    def test_command_lines(self, argv: list[str], program: tuple[str, ...], count: int) -> None:
        cfg = config.read(argv, {})
        assert (cfg.program, cfg.procs, cfg.alone) == (program, count, count == 1)

    @pytest.mark.parametrize(
        "argv", [[], ["--"], ["--what", "x"], ["--nproc-per-node"], ["--nproc-per-node", "0", "x"]]
    )
    def test_nonsense_gets_a_sentence(self, argv: list[str]) -> None:
        with pytest.raises(config.UsageError, match="usage:"):
            config.read(argv, {})

    def test_bad_variable_is_named(self) -> None:
        with pytest.raises(config.UsageError, match="MLENV_NUM_PROC_PER_NODE"):
            config.read(["x"], {"MLENV_NUM_PROC_PER_NODE": "many"})

    def test_threads_are_shared_among_ranks_unless_said(self) -> None:
        cfg = config.read(["x"], {})
        shape = config.RankShape(1, 0, 4, "127.0.0.1", 1, cpus=10)
        assert config.rank_env(cfg, {}, 1, 0, shape)["OMP_NUM_THREADS"] == "2"
        assert config.rank_env(cfg, {"OMP_NUM_THREADS": "7"}, 1, 0, shape)["OMP_NUM_THREADS"] == "7"

    @pytest.mark.parametrize(("said", "fork"), [("", True), ("1", True), ("0", False), ("False", False)])
    def test_forking_can_be_turned_off(self, said: str, fork: object) -> None:
        assert config.read(["x"], {"MLENV_FORK_SERVER": said}).fork is fork

    def test_at_least_one_cpu(self) -> None:
        assert config.cpus() >= 1


class TestPrograms:
    PYTHON = sys.executable
    ENV: ClassVar = {"PATH": str(Path(sys.executable).parent), "PYTHONUNBUFFERED": "1"}

    @pytest.mark.parametrize(
        ("argv", "script", "module", "args"),
        [
            ((PYTHON, "a.py", "-O"), "a.py", "", ("-O",)),
            (("python", "dir/a.py"), "dir/a.py", "", ()),
            (("python3", "-u", "a.py", "x"), "a.py", "", ("x",)),
            (("python", "-m", "pkg.mod", "-m"), "", "pkg.mod", ("-m",)),
        ],
    )
    def test_python_programs(
        self, argv: tuple[str, ...], script: str, module: str, args: tuple[str, ...]
    ) -> None:
        found = programs.parse(argv, self.ENV, self.PYTHON)
        assert found == programs.Program(argv, script, module, args)

    @pytest.mark.parametrize(
        ("argv", "why"),
        [
            (("sh", "-c", "python a.py"), "sh is not"),
            (("no-such-program",), "no-such-program is not"),
            (("python", "-O", "a.py"), "option -O"),
            (("python", "-X", "dev", "a.py"), "option -X"),
            (("python", "-Werror", "a.py"), "option -Werror"),
            (("python", "-c", "pass"), "option -c"),
            (("python", "-"), "option -"),
            (("python", "-m"), "option -m"),
            (("python",), "no script"),
            (("python", "folder"), "folder is no .py file"),
        ],
    )
    def test_others_are_left_alone(self, argv: tuple[str, ...], why: str) -> None:
        assert why in str(programs.parse(argv, {**self.ENV, "PATH": f"{self.ENV['PATH']}:/bin"}, self.PYTHON))

    def test_python_of_another_environment_is_another_python(self, tmp_path: Path) -> None:
        (tmp_path / "python").symlink_to(Path(self.PYTHON).resolve())
        assert "is not" in str(programs.parse((str(tmp_path / "python"), "a.py"), self.ENV, self.PYTHON))

    def test_unbuffered_is_an_option_where_python_does_buffer(self) -> None:
        assert "option -u" in str(
            programs.parse(("python", "-u", "a.py"), {"PATH": self.ENV["PATH"]}, self.PYTHON)
        )

    @pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "PYTHONHASHSEED", "LD_PRELOAD", "TORCH_LOGS", "ANY"])
    def test_variables_that_may_act_at_the_start_must_be_the_servers(self, name: str) -> None:
        served = {"PATH": "/bin"}
        assert name in programs.unlike(served, {**served, name: "1"})
        assert name in programs.unlike({**served, name: "1"}, served)

    def test_what_the_launcher_sets_for_a_rank_does_not_matter(self) -> None:
        cfg = config.read(["x"], {"MLENV_RUN_DIR": "/run"})
        shape = config.RankShape(2, 1, 4, "127.0.0.1", 1, cpus=10)
        base = {"PATH": "/bin", "MLENV_JOB_NAME": "j"}
        wanted = config.rank_env(cfg, base, 3, 2, shape)
        assert programs.unlike(config.base_env(base, 10, 4), wanted) == ""
        assert "OMP_NUM_THREADS" in programs.unlike(config.base_env(base, 4, 4), wanted)

    def test_small_containers_have_no_server(self) -> None:
        assert programs.too_small(None, 8) == ""
        assert programs.too_small(3 << 29, 1) == ""
        assert "1535 MiB is less than the 1536" in programs.too_small((3 << 29) - 1, 1)

    def test_what_is_shadowed(self, tmp_path: Path) -> None:
        imported = frozenset({"json", "queue", "tests"})
        (tmp_path / "queue").mkdir()
        (tmp_path / "json.txt").touch()
        assert forkserver.shadowed(tmp_path, imported) == ""
        assert forkserver.shadowed(Path(json.__file__).parents[1], imported) == ""
        assert forkserver.shadowed(tmp_path / "nowhere", imported) == ""
        (tmp_path / "queue" / "__init__.py").touch()
        assert forkserver.shadowed(tmp_path, imported) == str(tmp_path / "queue")


class TestRoute:
    def test_urls_in_turn(self) -> None:
        route = Route((A, B))
        assert [(route := route.failed()).target for _ in range(3)] == [B, A, B]
        assert route.answered().target == B

    def test_leader_until_it_fails(self) -> None:
        route = Route((A, B)).misdirected(C)
        assert (route.target, route.delay(0.5)) == (C, 0.0)
        assert route.answered().target == C
        assert route.failed().target == A

    def test_no_circles(self) -> None:
        route = Route((A,))
        for i in range(MAX_HOPS):
            route = route.misdirected(B if i % 2 == 0 else C)
            assert route.delay(0) == 0
        assert route.misdirected(C if route.target == B else B).delay(0) > 0

    @pytest.mark.parametrize("leader", [None, A, "file:///etc/passwd", "nonsense"])
    def test_a_leader_that_is_none(self, leader: str | None) -> None:
        route = Route((A,)).misdirected(leader)
        assert route.target == A
        assert route.delay(0) > 0

    def test_delays_grow_to_five_seconds(self) -> None:
        route, delays = Route((A,)), []
        for _ in range(200):
            route = route.failed()
            delays.append(route.delay(0.999))
        assert delays[0] == pytest.approx(0.2, abs=0.01)
        assert delays == sorted(delays)
        assert delays[-1] == pytest.approx(5.0, abs=0.01)
        assert route.delay(0.0) == pytest.approx(2.5)

    def test_retry_after_is_honoured_within_reason(self) -> None:
        assert Route((A,)).failed(wish=10.0).delay(0) == 10.0
        assert Route((A,)).failed(wish=1e9).delay(0) == 30.0


class TestLines:
    @given(st.binary(max_size=300), st.integers(1, 40))
    def test_every_byte_comes_out(self, data: bytes, size: int) -> None:
        lines = Lines()
        out = [line for i in range(0, len(data), size) for line in lines.feed(data[i : i + size])]
        assert b"\n".join([*out, *(lines.close() or [b""])]) == data

    def test_long_lines_are_split(self) -> None:
        lines = Lines()
        out = lines.feed(b"x" * (2 * MAX_LINE + 5))
        out += lines.feed(b"\nnext\n")
        assert [len(line) for line in out] == [MAX_LINE, MAX_LINE, 5, 4]

    def test_empty_lines_stay(self) -> None:
        assert Lines().feed(b"a\n\nb\n") == [b"a", b"", b"b"]


class TestCause:
    def test_last_traceback(self) -> None:
        text = """noise
Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    raise ValueError("bad")
my.pkg.BadError: line one
line two
later warning"""
        assert root_cause(text.splitlines()) == "my.pkg.BadError: line one"

    def test_torch_prefixes(self) -> None:
        lines = [
            "[rank0]: Traceback (most recent call last):",
            '[rank0]:   File "a.py", line 1',
            "[rank0]: RuntimeError: Connection closed by peer",
            "[rank0]:[W1123 ProcessGroup] Warning: destroy_process_group() was not called",
        ]
        assert root_cause(lines) == "RuntimeError: Connection closed by peer"

    def test_bare_exception(self) -> None:
        assert (
            root_cause(["Traceback (most recent call last):", "  File x", "KeyboardInterrupt"])
            == "KeyboardInterrupt"
        )

    def test_without_traceback_the_last_line(self) -> None:
        assert root_cause(["a", "Killed by nobody", "  ", ""]) == "Killed by nobody"

    def test_nothing(self) -> None:
        assert root_cause([]) == ""

    def test_is_bounded(self) -> None:
        assert len(root_cause(["x " * 5000])) <= 1024

    @pytest.mark.parametrize(
        "text",
        [
            "WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567",
            "api key 0123456789abcdef0123456789abcdef01234567",
            "Authorization: Bearer SECRETabcdefghij",
            "token: SECRETabc",
            "{'password': 'SECRETabc'}",
            "postgres://bob:SECRETabc@db/x",
            "AKIASECRETABCDEFGHIJ",
            "hf_SECRETabcdefghijklmnop",
            "aws_secret_access_key = SECRETabc/def",
            "eyJhbGciOiJSECRET.eyJzdWIiOiJSECRET.SECRETsignature",
        ],
    )
    def test_secrets_are_masked(self, text: str) -> None:
        masked = mask(f"Error: cannot connect with {text} today")
        assert "SECRET" not in masked
        assert "0123456789abcdef" not in masked
        assert masked.startswith("Error: cannot connect with ")
        assert masked.endswith(" today")

    @pytest.mark.parametrize("text", ["ValueError: expected 3 tokens, got 4", "KeyError: 'user_id'"])
    def test_other_text_stays(self, text: str) -> None:
        assert mask(text) == text


class TestPage:
    def test_round_trip_with_what_json_cannot_say(self, tmp_path: Path) -> None:
        progress = Progress(step=3, metrics={"a": math.nan, "b": -math.inf, "c": 1.5})
        page.write(tmp_path, 2, progress)
        json.loads((tmp_path / page.FILE).read_text(), parse_constant=pytest.fail)
        found = page.read(tmp_path, 2)
        assert found is not None
        assert math.isnan(found.metrics["a"])
        assert (found.metrics["b"], found.metrics["c"], found.step) == (-math.inf, 1.5, 3)

    def test_pages_of_older_attempts_do_not_count(self, tmp_path: Path) -> None:
        page.write(tmp_path, 1, Progress(step=3))
        assert page.read(tmp_path, 2) is None

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "3", '{"attempt": 1}', '{"attempt": 1, "progress": {"step": -1}}']
    )
    def test_nonsense_is_no_page(self, tmp_path: Path, text: str) -> None:
        (tmp_path / page.FILE).write_text(text)
        assert page.read(tmp_path, 1) is None

    def test_metrics_are_bounded(self) -> None:
        many = page.bounded({f"{i:02}" * 40: float(i) for i in range(40)})
        assert len(Progress(metrics=many).metrics) == page.MAX_METRICS


def test_shared_memory_is_cleared_of_files_only(tmp_path: Path) -> None:
    (tmp_path / "torch_1").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert procs.clear_shared_memory(tmp_path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert mlenv.__version__ == version("mlenv")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing_here"):
        mlenv.nothing_here  # noqa: B018
    assert {"Session", "init", "wrap"} <= set(dir(mlenv))
