"""`rstitch export` against a router on a real Redis: rows, parts, and what comes when it is run again."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from router_svc.main import Router
from rstitch.cli.app import app
from rstitch.client.aio import AsyncClient
from rstitch.client.sync import Client
from rstitch.client.types import Threshold
from rstitch.errors import RstitchError
from rstitch.export import changes
from rstitch.export.exporting import STATE, Export, Wanted
from rstitch.export.places import Folder, place_of
from tests.support.asking import Reading, ask_for, until
from tests.support.endless import endless
from tests.support.toy_stack import Stack


@pytest.fixture
async def router(stack: Stack) -> Router:
    return await stack.router()


@pytest.fixture
def client(router: Router) -> AsyncClient:
    return AsyncClient(f"127.0.0.1:{router.port}")


async def exported(router: Router, *args: str) -> Any:
    address = f"127.0.0.1:{router.port}"
    return await asyncio.to_thread(CliRunner().invoke, app, ["export", "--router", address, *args])


async def asked(client: AsyncClient, *ids: str) -> None:
    for session_id in ids:
        await client.answer(
            session_id=session_id, text=f"7 8 {len(session_id)}", policy=Threshold(0.5), max_new_tokens=9
        )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_file_has_a_row_of_each(stack: Stack, router: Router, client: AsyncClient, tmp_path: Path) -> None:
    await asked(client, "a", "b", "c")
    await client.label_trajectory("b", True)
    endless(stack, delay_s=0.05)
    reading = await Reading(await stack.stub(router), ask_for(session_id="runs", max_new_tokens=500)).has(1)
    file = tmp_path / "all.jsonl"
    result = await exported(router, "--to", str(file))
    assert (result.exit_code, result.stderr) == (0, f"3 trajectories to {file}\n")
    rows = lines(file)
    assert [row["session_id"] for row in rows] == ["a", "b", "c"]
    for row in rows:
        meant = await client.trajectory(row["session_id"])
        assert meant.finished is not None
        assert (row["length"], row["state"]) == (meant.length, "finished")
        assert (row["created"], row["updated"]) == (meant.created.isoformat(), meant.updated.isoformat())
        assert row["label"] == ("right" if row["session_id"] == "b" else None)
        assert row["policy"] == "threshold:tau=0.5" or "0.5" in row["policy"]
        assert row["usage"]["num_llm_tokens"] == meant.finished.usage.num_llm_tokens
        assert "".join(segment["text"] for segment in row["segments"]) == meant.text
        assert [token for segment in row["segments"] for token in segment["tokens"]] == list(meant.tokens)
        found = [(each["source"], each["reason"], each["switch_entropy"]) for each in row["segments"]]
        assert found == [(each.source.value, each.reason.value, each.switch_entropy) for each in meant.segments]
    before = file.read_bytes()
    assert (await exported(router, "--to", str(file))).exit_code == 0
    assert file.read_bytes() == before
    await exported(router, "--to", str(file), "--labelled")
    assert [row["session_id"] for row in lines(file)] == ["b"]
    await exported(router, "--to", str(file), "--since", rows[2]["updated"])
    assert [row["session_id"] for row in lines(file)] == ["c"]
    await exported(router, "--to", str(file), "--running", "--since", "1h")
    assert sorted(row["session_id"] for row in lines(file)) == ["a", "b", "c", "runs"]
    assert os.listdir(tmp_path) == ["all.jsonl"]
    assert not reading.is_over


async def test_parquet_and_an_object_store_have_the_same_rows(
    router: Router, client: AsyncClient, tmp_path: Path
) -> None:
    await asked(client, "a", "b")
    await exported(router, "--to", str(tmp_path / "all.jsonl"))
    meant = lines(tmp_path / "all.jsonl")
    places = [str(tmp_path / "all.parquet"), f"file://{tmp_path}/bucket/all.parquet"]
    for to in places:
        assert (await exported(router, "--to", to)).exit_code == 0
        found = pq.read_table(to.removeprefix("file://")).to_pylist()
        for row, like in zip(found, meant, strict=True):
            row |= {name: row[name].isoformat() for name in ("created", "updated")}
            assert set(row) == set(like)
            for segment, other in zip(row.pop("segments"), like["segments"], strict=True):
                assert segment.pop("entropies") == pytest.approx(other["entropies"])
                assert segment == {name: value for name, value in other.items() if name != "entropies"}
            assert row == {name: value for name, value in like.items() if name != "segments"}
    for _ in range(2):
        assert (await exported(router, "--to", f"file://{tmp_path}/parts")).exit_code == 0
    assert lines(tmp_path / "parts/part-000000.jsonl") == meant
    assert not (tmp_path / "parts/part-000001.jsonl").exists()


async def test_a_folder_gets_what_has_changed(
    router: Router, client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_PAGE", 3)

    async def part(number: int) -> dict[str, Any]:
        """What the next run adds, by session."""
        assert (await exported(router, "--to", f"{tmp_path}/")).exit_code == 0
        path = tmp_path / f"part-{number:06d}.jsonl"
        return {row["session_id"]: row for row in lines(path)} if path.exists() else {}

    names = [f"s{number}" for number in range(8)]
    await asked(client, *names)
    await client.label_trajectory("s0", True)
    assert sorted(await part(0)) == names
    assert await part(1) == {}
    await asked(client, "new", "s3")
    await client.label_trajectory("s5", False)
    await client.delete_trajectory("s6")
    found = await part(1)
    assert {name: (row["label"], row["length"]) for name, row in found.items()} == {
        "new": (None, (await client.trajectory("new")).length),
        "s3": (None, (await client.trajectory("s3")).length),
        "s5": ("wrong", (await client.trajectory("s5")).length),
    }
    # A label that is taken back, and one that went with its trajectory.
    await client.label_trajectory("s0", None)
    await client.delete_trajectory("s5")
    assert {name: row["label"] for name, row in (await part(2)).items()} == {"s0": None}
    assert await part(3) == {}


class Breaking:
    """A client whose router goes away after some trajectories."""

    def __init__(self, client: Any, num: int) -> None:
        self._client = client
        self._num = num

    def trajectories(self, *args: Any, **kwargs: Any) -> Any:
        return self._client.trajectories(*args, **kwargs)

    def trajectory(self, session_id: str) -> Any:
        self._num -= 1
        if self._num < 0:
            raise ConnectionError("gone")
        return self._client.trajectory(session_id)


async def test_a_run_that_breaks_off_leaves_nothing_and_loses_nothing(
    router: Router, client: AsyncClient, tmp_path: Path
) -> None:
    await asked(client, "a", "b", "c")

    def broken() -> list[str]:
        with Client(f"127.0.0.1:{router.port}") as own:
            export = Export(Breaking(own, 2), Folder(tmp_path), "", "parquet", Wanted())
            with pytest.raises(ConnectionError):
                export.round(lambda done, total: None)
            return sorted(os.listdir(tmp_path))

    assert await asyncio.to_thread(broken) == []
    assert (await exported(router, "--to", str(tmp_path), "--format", "parquet")).exit_code == 0
    assert pq.read_table(tmp_path / "part-000000.parquet")["session_id"].to_pylist() == ["a", "b", "c"]
    assert sorted(os.listdir(tmp_path)) == [STATE, "part-000000.parquet"]


class Orphaned:
    """A client of a router where a session was last written to long ago: the listing is not read so far."""

    def __init__(self, client: Any, session_id: str) -> None:
        self._client = client
        self._session_id = session_id
        self.trajectory = client.trajectory

    def trajectories(self, *args: Any, **kwargs: Any) -> Any:
        return (each for each in self._client.trajectories(*args, **kwargs) if each.session_id != self._session_id)


async def test_an_answer_whose_router_died_behind_a_labelled_one_makes_no_parts(
    stack: Stack, router: Router, client: AsyncClient, tmp_path: Path
) -> None:
    await asked(client, "a")
    await client.label_trajectory("a", True)
    assert (await exported(router, "--to", f"{tmp_path}/")).exit_code == 0
    endless(stack, delay_s=0.05)
    reading = await Reading(await stack.stub(router), ask_for(session_id="a", max_new_tokens=500)).has(1)

    def rounds() -> list[int]:
        with Client(f"127.0.0.1:{router.port}") as own:
            export = Export(Orphaned(own, "a"), Folder(tmp_path), "", "jsonl", Wanted())
            return [export.round(lambda done, total: None) for _ in range(2)]

    assert await asyncio.to_thread(rounds) == [0, 0]
    assert sorted(os.listdir(tmp_path)) == [STATE, "part-000000.jsonl"]
    assert not reading.is_over
    await client.cancel("a")
    assert (await exported(router, "--to", f"{tmp_path}/")).exit_code == 0
    assert [(row["session_id"], row["label"]) for row in lines(tmp_path / "part-000001.jsonl")] == [("a", None)]


def _break_off(stream: Any) -> None:
    stream.write(b"a part")
    raise ConnectionError("gone")


def test_a_round_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    bucket, _ = place_of(f"file://{tmp_path}/all.jsonl")
    for place in (bucket, Folder(tmp_path)):
        with place.write("all.jsonl") as stream:
            stream.write(b"whole")
        with pytest.raises(ConnectionError), place.write("all.jsonl") as stream:
            _break_off(stream)
        assert place.read("all.jsonl") == b"whole"
    assert os.listdir(tmp_path) == ["all.jsonl"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(RstitchError, match="No space left"), Folder(tmp_path).write("all.jsonl"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


async def test_it_follows_until_it_is_stopped(router: Router, client: AsyncClient, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rstitch.cli.app", "export", "--to", str(tmp_path), "--follow", "--every", "0.1"]
    process = await asyncio.create_subprocess_exec(*command, "--router", f"127.0.0.1:{router.port}")
    try:
        for number, name in enumerate(("a", "b", "c")):
            await asked(client, name)
            part = tmp_path / f"part-{number:06d}.jsonl"
            await until(part.exists)
            assert [row["session_id"] for row in lines(part)] == [name]
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_what_cannot_be_is_refused_by_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        "--format": ["--to", str(tmp_path), "--format", "xml"],
        "--format: it is jsonl": ["--to", str(tmp_path / "a.parquet"), "--format", "jsonl"],
        "--since": ["--to", str(tmp_path), "--since", "yesterday"],
        "--follow": ["--to", str(tmp_path / "a.jsonl"), "--follow"],
        "--to": ["--to", "ftp+x://host/path"],
    }
    for told, args in cases.items():
        result = CliRunner().invoke(app, ["export", "--router", "127.0.0.1:1", *args])
        assert (result.exit_code, told in result.stderr) == (2, True), (args, result.stderr)
    with pytest.raises(RstitchError, match="--to"), Folder(tmp_path / "file").write("a.jsonl"):
        pass
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for to in ("s3://bucket/path", str(tmp_path / "a.parquet")):
        result = CliRunner().invoke(app, ["export", "--router", "127.0.0.1:1", "--to", to])
        assert (result.exit_code, "rstitch[export]" in result.stderr) == (2, True), to


@pytest.mark.parametrize(
    ("to", "folder", "file"),
    [
        ("a.jsonl", ".", "a.jsonl"),
        ("x/y.parquet", "x", "y.parquet"),
        ("x/y", "x/y", ""),
        ("x/", "x", ""),
        ("x", "x", ""),
    ],
)
def test_where_an_export_goes(to: str, folder: str, file: str) -> None:
    place, name = place_of(to)
    assert isinstance(place, Folder)
    assert (place._path, name) == (Path(folder), file)
