"""config.json of folders that nobody has checked."""

import json
import os

import pytest

from tenreo.errors import TenreoError
from tenreo.files.configs import read_config


def test_a_configuration(tmp_path):
    values = {"architecture": "resnet10t", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}, "label_names": ["a"] * 1000}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path) == values


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "can't decode"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number has 5,000 digits"),
        (b" " * 10_000_001, "more than 10,000,000 bytes"),
    ],
)
def test_a_damaged_configuration_is_refused_in_one_line(tmp_path, text, why):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(TenreoError, match=f"cannot be read as a configuration: .*{why}.*download the folder again"):
        read_config(tmp_path)


def test_what_is_no_file_of_the_folder_is_refused(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    with pytest.raises(TenreoError, match="no such file"):
        read_config(folder)
    (tmp_path / "secret.json").write_text("{}")
    (folder / "config.json").symlink_to("../secret.json")
    with pytest.raises(TenreoError, match=r"secret\.json, outside of its folder"):
        read_config(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(TenreoError, match="it is a pipe"):
        read_config(folder)
