"""Adding and revoking keys in a file without changing the rest."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from metered_realtime.server.config.file import ConfigError, load_config
from metered_realtime.server.config.keyfile import create_key, revoke_key

from ...cli.test_serve import finished

HAND_WRITTEN = """# ours, do not touch
[server]   # where to listen
port = 1

[[publishable_keys]]  # the shop
key = "pk_live_shop"
revoked = false  # not yet

[[secret_keys]]
id = "sk_id_one"
secret = "sk_secret_oooooooooooooooooooooooooooooooo"

[limits]
frame_burst = 9"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_bytes(HAND_WRITTEN.encode())
    path.chmod(0o640)
    return path


def test_a_new_key_is_appended_and_all_else_stays(path: Path) -> None:
    made = create_key(
        path, "publishable", patterns=["a/*", 'quo"te\\*'], actions=["send"], origins=["https://app.example"]
    )
    assert path.read_text().startswith(HAND_WRITTEN + "\n\n[[publishable_keys]]\n")
    key = load_config(path).apps[0].publishable_keys[1]
    assert (key.key, key.channel_patterns, key.actions) == (made["key"], ("a/*", 'quo"te\\*'), {"send"})
    assert key.allowed_origins == ("https://app.example",)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_app_is_added_with_its_key(path: Path) -> None:
    made = create_key(path, "secret", app="new")
    create_key(path, "secret", app="new")
    app = load_config(path).apps[1]
    assert (app.id, app.secret_keys[0].id, app.secret_keys[0].secret) == ("new", made["id"], made["secret"])
    assert path.read_text().count("[apps.new]") == 1


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    create_key(tmp_path / "new.toml", "secret")
    assert stat.S_IMODE((tmp_path / "new.toml").stat().st_mode) == 0o600


def test_a_file_stays_with_its_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr("os.chown", lambda _, uid, gid: owners.append((uid, gid)))
    create_key(path, "secret")
    assert owners == [(path.stat().st_uid, path.stat().st_gid)]


def test_line_ends_stay_as_they_are(path: Path) -> None:
    text = HAND_WRITTEN.replace("\n", "\r\n")
    path.write_bytes(text.encode())
    create_key(path, "secret")
    assert path.read_bytes().startswith(text.encode())


@pytest.mark.parametrize(
    ("options", "named"),
    [({"app": "x y"}, "'x y'"), ({"actions": ["fly"]}, "'fly'"), ({"origins": ["app"]}, "'app'")],
)
def test_a_bad_key_leaves_the_file_as_it_was(path: Path, options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        create_key(path, "publishable", **options)  # type: ignore[arg-type]
    assert path.read_text() == HAND_WRITTEN


@pytest.mark.parametrize("key", ["pk_live_shop", "sk_id_one"])
def test_a_key_is_revoked_and_all_else_stays(path: Path, key: str) -> None:
    revoke_key(path, key)
    (app,) = load_config(path).apps
    revoked = {app.publishable_keys[0].key: app.publishable_keys[0].revoked, app.secret_keys[0].id: False}
    revoked[app.secret_keys[0].id] = app.secret_keys[0].revoked
    assert revoked == {"pk_live_shop": key == "pk_live_shop", "sk_id_one": key == "sk_id_one"}
    before, after = HAND_WRITTEN.splitlines(), path.read_text().splitlines()
    assert [line for line in after if "revoked" not in line] == [line for line in before if "revoked" not in line]
    revoke_key(path, key)
    assert path.read_text().splitlines() == after


def test_a_key_that_is_not_there_cannot_be_revoked(path: Path) -> None:
    with pytest.raises(ConfigError, match="'pk_live_gone'"):
        revoke_key(path, "pk_live_gone")


def test_a_key_written_inline_is_left_to_its_author(path: Path) -> None:
    path.write_text('publishable_keys = [{key = "pk_live_a"}]')
    with pytest.raises(ConfigError, match=r"publishable_keys\[0\]: write `revoked = true` there by hand"):
        revoke_key(path, "pk_live_a")
    assert path.read_text() == 'publishable_keys = [{key = "pk_live_a"}]'


async def test_the_program_creates_lists_and_revokes(path: Path) -> None:
    file = ("--config", str(path))
    code, out, err = await finished("keys", "create", *file, "--kind", "secret", "--pattern", "a/*")
    assert (code, err) == (0, "")
    key_id, secret = (line.partition(" = ")[2] for line in out.splitlines())
    assert (await finished("keys", "revoke", *file, key_id))[0] == 0
    code, out, err = await finished("keys", "list", *file)
    assert (code, err) == (0, "")
    assert secret not in out
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[-1] == ["default", "secret", key_id, "a/*", "presence,publish,send,subscribe", "revoked"]


@pytest.fixture
def mistaken(path: Path) -> Path:
    path.write_text("[server]\nport = 'x'")
    return path


async def test_the_program_names_a_mistake_in_the_file(mistaken: Path) -> None:
    for command in (("keys", "list"), ("keys", "create", "--kind", "secret"), ("serve",)):
        code, out, err = await finished(*command, "--config", str(mistaken))
        assert (code != 0, out) == (True, "")
        assert "server.port" in err
        assert "Traceback" not in err
