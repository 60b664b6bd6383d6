"""Settings come from flags, the environment and a file, and each fault names its place."""

from pathlib import Path

import pytest
import yaml

from upscaled_http.config import Settings
from upscaled_http.keys import Key, new_key
from upscaled_http.sources import ConfigError, Given, load, printed

KEY = "0123456789abcdef"
SECRET = "whsec_" + "c2VjcmV0" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "serve.yaml"


def faults(environ: dict[str, str], file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(environ, file)
    return list(caught.value.faults)


def test_without_anything_the_defaults_hold() -> None:
    settings = load({})
    assert settings == Settings()
    assert settings.server.host == "127.0.0.1"
    assert settings.storage.data_dir == Path.cwd() / "data"


def test_flags_come_before_the_environment_and_that_before_the_file(file: Path) -> None:
    file.write_text("server: {host: localhost, port: 1, grace_s: 7}\nlimits: {max_queue: 3}\n")
    environ = {"UPSCALED_SERVER_PORT": "2", "UPSCALED_SERVER_GRACE_S": "8", "PORT": "4"}
    settings = load(environ, file, {"server.port": Given("--port", 3)})
    assert settings.server.port == 3
    assert settings.server.grace_s == 8
    assert settings.server.host == "localhost"
    assert settings.limits.max_queue == 3


def test_names_of_other_systems_are_read_and_ours_come_first() -> None:
    environ = {
        "PORT": "3000",
        "UPLOAD_DIR": "/u",
        "OUTPUT_DIR": "/o",
        "MAX_CONCURRENT_JOBS": "4",
        "MODEL_CACHE_DIR": "/m",
        "DEFAULT_UPSCALE_FACTOR": "2",
        "DEFAULT_DPI": "300",
        "UPSCALED_STORAGE_OUTPUT_DIR": "/ours",
    }
    settings = load(environ)
    assert settings.server.port == 3000
    assert settings.storage.uploads == Path("/u")
    assert settings.storage.results == Path("/ours")
    assert settings.workers.count == 4
    assert settings.workers.model_dir == Path("/m")
    assert settings.defaults.upscale_factor == 2
    assert settings.defaults.dpi == 300


def test_the_pipelines_names_are_read_and_its_bucket_may_be_a_bare_name() -> None:
    pytest.importorskip("obstore")
    environ = {"S3_BUCKET": "photos", "QUALITY_THRESHOLD": "0.3", "UPSCALE_SCALE": "2"}
    pipeline = load(environ).pipeline
    assert (pipeline.bucket, pipeline.threshold, pipeline.scale) == ("s3://photos", 0.3, 2)
    (line,) = faults({"S3_BUCKET": "photos", "UPSCALED_PIPELINE_SCORE": "beauty"})
    assert line.startswith("UPSCALED_PIPELINE_SCORE: pipeline.score: no score 'beauty'")


def test_a_default_model_is_one_of_the_catalogue_or_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "upscale_models").mkdir()
    (tmp_path / "upscale_models" / "mine.safetensors").write_bytes(b"")
    for name in ("4x-ultrasharp", "mine"):
        environ = {"UPSCALED_DEFAULTS_MODEL": name, "MODEL_CACHE_DIR": str(tmp_path)}
        assert load(environ).defaults.model == name


def test_a_list_is_a_list_or_text_with_commas(file: Path) -> None:
    file.write_text("urls:\n  allow_hosts: [minio:9000, a.example:443]\n")
    settings = load({"UPSCALED_WORKERS_METHODS": "esrgan, fake,"}, file)
    assert settings.workers.methods == ("esrgan", "fake")
    assert settings.urls.allow_hosts == ("minio:9000", "a.example:443")


def test_an_empty_variable_counts_as_unset() -> None:
    assert load({"PORT": "", "UPSCALED_SERVER_PORT": ""}).server.port == 8080


def test_a_value_that_cannot_be_says_where_it_was_given_and_what_it_is(file: Path) -> None:
    file.write_text("limits: {max_queue: 0}\nlogging: {level: loud}\n")
    found = faults({"UPSCALED_SERVER_PORT": "99999", "DEFAULT_DPI": "many"}, file)
    assert found == [
        (
            "UPSCALED_SERVER_PORT: server.port: input should be less than or equal to 65535; "
            "it is '99999'"
        ),
        f"{file}: limits.max_queue: input should be greater than or equal to 1; it is 0",
        (
            "DEFAULT_DPI: defaults.dpi: input should be a valid number, unable to parse string "
            "as a number; it is 'many'"
        ),
        (
            f"{file}: logging.level: input should be 'debug', 'info', 'warning' or 'error'; "
            "it is 'loud'"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("servre: {port: 1}", ": servre: there is no such section; the sections are server,"),
        ("server: {prot: 1}", ": server.prot: there is no such key; the keys of server are host,"),
        ("server:\n  port: 1\n  port: 2", ":3: `port` is given twice"),
        ("server: 8080", ": server: needs keys below it"),
        ("- server", ": needs sections at its top"),
        ("server: {port: [1}", ":1: expected ',' or ']'"),
        ("server: {cors_origins: app.example}", ": server.cors_origins: needs an origin"),
        ("server: {trusted_proxies: [proxy]}", ": server.trusted_proxies: needs an address"),
        ("defaults: {model: flux}", ": defaults.model: no esrgan model is called `flux`"),
        ("defaults: {model: ../x}", ": defaults.model: no esrgan model is called `../x`"),
        ("pipeline: {bucket: 'ftp://b'}", ": pipeline.bucket: needs a bucket, as in s3://pictures"),
        ("pipeline: {scale: 3}", ": pipeline.scale: needs 2 or 4; it is 3"),
        ("logging: {output: file}", ": logging.output: `file` needs logging.file_path"),
        (f"auth: {{keys: 'a:{KEY}'}}", ": auth.keys: secrets do not belong in this file"),
        (f"webhooks: {{secret: {SECRET}}}", ": webhooks.secret: secrets do not belong in this"),
    ],
)
def test_a_fault_of_the_file_is_one_line(file: Path, text: str, fault: str) -> None:
    file.write_text(text)
    (line,) = faults({}, file)
    assert line.startswith(f"{file}{fault}")


def test_a_file_that_is_not_there_is_a_fault(file: Path) -> None:
    assert faults({}, file) == [f"{file}: cannot be read: No such file or directory"]


@pytest.mark.parametrize("name", ["UPSCALED_LIMTS_MAX_QUEUE", "UPSCALED_LIMITS_MAX_QUEU"])
def test_a_misspelt_variable_is_a_fault(name: str) -> None:
    (line,) = faults({name: "1", "UPSCALED_METRICS_ADDRESS": "127.0.0.1:9"})
    assert line.startswith(f"{name}: there is no such setting")


def test_keys_come_from_the_environment_and_from_a_file_hashed_or_plain(tmp_path: Path) -> None:
    text, key = new_key("app")
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{key.line()}\nplain:{KEY}\n")
    environ = {"UPSCALED_AUTH_KEYS": f"web:{KEY}x", "UPSCALED_AUTH_KEYS_FILE": str(file)}
    settings = load(environ)
    assert [key.name for key in settings.auth.keys] == ["web", "app", "plain"]
    assert Key.of("app", text) in settings.auth.keys
    assert KEY not in printed(settings)
    assert key.sha256 not in printed(settings)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (f"a:{KEY},a:{KEY}y", "two keys are called a"),
        ("a:tooshort", "key a needs at least 16 characters"),
        (f"{KEY}{KEY}", "an entry is not NAME:KEY"),
        (f"a:sha256:{KEY}", "the SHA-256 of key a is not 64 hexadecimal digits"),
    ],
)
def test_a_wrong_key_is_named_and_never_shown(entry: str, reason: str) -> None:
    (line,) = faults({"UPSCALED_AUTH_KEYS": entry})
    assert line.startswith(f"UPSCALED_AUTH_KEYS: auth.keys: {reason}")
    assert KEY not in line
    assert "tooshort" not in line


@pytest.mark.parametrize("text", ["", "# none yet\n"])
def test_a_keys_file_without_a_key_would_open_the_api_and_is_a_fault(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    (line,) = faults({"UPSCALED_AUTH_KEYS_FILE": str(file)})
    assert line.endswith("has no key")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "box"])
def test_a_host_that_others_can_reach_needs_keys_or_a_word(host: str) -> None:
    (line,) = faults({"UPSCALED_SERVER_HOST": host})
    assert line.startswith(f"UPSCALED_SERVER_HOST: server.host: other machines can reach {host}")
    load({"UPSCALED_SERVER_HOST": host, "UPSCALED_AUTH_KEYS": f"a:{KEY}"})
    load({"UPSCALED_SERVER_HOST": host, "UPSCALED_AUTH_ALLOW_ANONYMOUS": "true"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert load({"UPSCALED_SERVER_HOST": host}).server.host == host


def test_what_is_printed_can_be_read_again(file: Path) -> None:
    file.write_text(printed(load({"PORT": "1", "UPSCALED_WORKERS_METHODS": "fake"})))
    content = yaml.safe_load(file.read_text())
    del content["auth"]["keys"]
    file.write_text(yaml.safe_dump(content))
    settings = load({}, file)
    assert settings.server.port == 1
    assert settings.workers.methods == ("fake",)


def test_a_wrong_webhook_secret_is_reported_and_never_shown() -> None:
    for secret in ("hunter2", "whsec_hunter2", SECRET.removeprefix("whsec_"), "whsec_" + "A" * 400):
        (line,) = faults({"UPSCALED_WEBHOOKS_SECRET": secret})
        assert line.startswith("UPSCALED_WEBHOOKS_SECRET: webhooks.secret: needs whsec_ and ")
        assert secret.removeprefix("whsec_") not in line


def test_the_webhook_secret_comes_from_the_environment_or_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    for environ in ({"UPSCALED_WEBHOOKS_SECRET": SECRET},
                    {"UPSCALED_WEBHOOKS_SECRET_FILE": str(file)}):  # fmt: skip
        settings = load(environ)
        assert settings.webhooks.secret is not None
        assert settings.webhooks.secret.get_secret_value() == SECRET
        assert SECRET not in printed(settings)
        assert SECRET not in repr(settings)


@pytest.mark.parametrize("section", ["urls", "webhooks"])
def test_an_allowed_host_needs_its_port(section: str) -> None:
    (line,) = faults({f"UPSCALED_{section.upper()}_ALLOW_HOSTS": "a.example:443,minio"})
    assert f"{section}.allow_hosts: needs host:port" in line
    assert line.endswith("it is 'minio'")
