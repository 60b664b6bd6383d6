"""`upscaled upscale` with pictures in an object storage: a real S3 server and a real daemon."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import nearest_engine
from object_store import BUCKET, running_object_store
from serve_process import picture
from upscale_daemon import run, sent
from upscaled_cli import exits
from upscaled_cli.session import DAEMON, Session
from upscaled_cli.upscale import main

obstore = pytest.importorskip("obstore", reason="obstore is not installed")


def test_a_picture_of_a_bucket_is_upscaled_into_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from obstore.store import from_url

    with running_object_store(tmp_path) as server:
        own = nearest_engine.environment()
        chosen = {name: own[name] for name in ("PYTHONPATH", "UPSCALED_METHODS")}
        for name, value in {**chosen, **server.environment}.items():
            monkeypatch.setenv(name, value)
        bucket = from_url(server.url)
        obstore.put(bucket, "in.png", picture(12, 8))
        source, output = f"s3://{BUCKET}/in.png", f"s3://{BUCKET}/large/out.png"
        assert run(DAEMON, source, "-o", output, "--factor", "2") == exits.OK
        assert f"{source} 12x8 -> {output} 24x16" in capsys.readouterr().out
        data = bytes(obstore.get(bucket, "large/out.png").bytes())
        (tmp_path / "in.png").write_bytes(picture(6, 4))
        several = [source, str(tmp_path / "in.png"), "-o", f"s3://{BUCKET}/folder/"]
        assert run(DAEMON, *several, "--factor", "2", "--format", "webp") == exits.OK
        lines = capsys.readouterr().out
        for name, size in {"in_esrgan.webp": "24x16", "in_esrgan-2.webp": "12x8"}.items():
            assert f"-> s3://{BUCKET}/folder/{name} {size}" in lines
            assert bucket.head(f"folder/{name}")["size"] > 0
        assert run(DAEMON, f"s3://{BUCKET}/none.png", "-o", output) == exits.FAILED
        error = capsys.readouterr().err
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (24, 16)
    assert "none.png" in error
    assert server.secret not in error


def test_the_daemon_may_use_the_buckets_that_are_named_and_no_others(
    daemon: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    commands: list[Sequence[str]] = []

    class Watched(Session):
        def __init__(self, command: Sequence[str], **options: Any) -> None:
            commands.append(command)
            super().__init__(command, **options)

    monkeypatch.setattr("upscaled_cli.upscale.Session", Watched)
    urls = ("s3://a/1.png", "gs://b/2.png", "s3://a/3.png", "https://h/4.png")
    configs = sent(daemon, *urls, "5.png", "-o", "out/", capsys=capsys)
    assert [config.get("image_url") for config in configs] == [*urls, None]
    allowed = [one for one in commands[0] if one.startswith("--allow-url")]
    assert allowed == ["--allow-url=s3://a/", "--allow-url=gs://b/"]


def test_outputs_in_a_folder_of_a_bucket_have_names_of_their_own(
    daemon: list[str], capsys: Any
) -> None:
    inputs = ["a/100%.jpg", "b/100#.png", "s3://c/100_.webp", "d.e.jpg"]
    configs = sent(daemon, *inputs, "-o", "s3://out/", "--format", "jpeg", capsys=capsys)
    assert [config["output_url"] for config in configs] == [
        *("s3://out/100__esrgan.jpg", "s3://out/100__esrgan-2.jpg"),
        *("s3://out/100__esrgan-3.jpg", "s3://out/d.e_esrgan.jpg"),
    ]
    (config,) = sent(daemon, "one.jpg", "-o", "gs://out/deep/", capsys=capsys)
    assert config["output_url"] == "gs://out/deep/one_esrgan.png"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["s3://bucket", "-o", "a.png"], "s3://bucket names no object"),
        (["s3://bucket/", "-o", "a.png"], "s3://bucket/ names no object"),
        (["a.png", "-o", "s3:///a.png"], "s3:///a.png names no object"),
        (["a.png", "-o", "s3:///"], "s3:/// names no object"),
        (["a.png", "-o", "s3://bucket"], "s3://bucket names no object"),
        (["a.png", "b.png", "-o", "s3://bucket/c.png"], "is one object for 2 pictures"),
        (["s3://bucket/a.png"], "s3://bucket/a.png has no folder for its output"),
        (["https://h/a.png"], "https://h/a.png has no folder for its output"),
        (["a.png", "-o", "b.png", "--config", "output_url=s3://c/d.png"], "give -o alone"),
    ],
)
def test_a_url_that_cannot_be_used_is_wrong_usage(
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OUTPUT_DIR", raising=False)
    with pytest.raises(SystemExit) as left:
        main(arguments, ["/this/daemon/does/not/exist"])
    assert left.value.code == exits.USAGE
    assert sentence in capsys.readouterr().err
