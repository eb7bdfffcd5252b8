import json
import random

import pytest

from runtime import files, json_files

VALUE = {"a": [1, -2.5, None, True], "ü": {"b": "日本", "c": "\udcff"}, "d": "", "e": 2**63 - 1}


def test_what_python_writes_is_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    for ensure_ascii in (True, False):
        value = VALUE if ensure_ascii else VALUE | {"ü": "ü"}
        text = json.dumps(value, ensure_ascii=ensure_ascii)
        for encoding in ("utf-8", "utf-8-sig"):
            path.write_text(text, encoding=encoding)
            assert json_files.read(path) == value


# name: content, words of the error
BAD = {
    "nothing": (b"", "Expecting value"),
    "cut": (b'{"a": [1, 2', "Expecting"),
    "nested deeply": (b"[" * 10**5, "nested too deeply"),
    "objects nested deeply": (b'{"a":' * 10**5, "nested too deeply"),
    "nested within": (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
    "NaN": (b'{"unknown": NaN}', "NaN is no number of JSON"),
    "infinity": (b"[-Infinity]", "-Infinity is no number of JSON"),
    "beyond float64": (b"[1e400]", "1e400 is a number beyond 64 bits"),
    "400 digits": (b"1" * 400, "11111111111111111111... is a number beyond 64 bits"),
    "5,000 digits": (b"-" + b"9" * 5000, "beyond 64 bits"),
    "beyond int64": (b"9223372036854775808", "beyond 64 bits"),
    "half of a character": (rb'{"\ud800": 1}', r"'\\ud800' is half of a character"),
    "half, deeper": (rb'[{"a": ["\udc00x"]}]', r"'\\udc00' is half of a character"),
    "a key twice": (b'{"a": 1, "b": {"c": 1, "c": 1}}', "'c' stands there twice"),
    "other bytes": (b'{"a": "\xff"}', "can't decode byte 0xff"),
    "UTF-16": (json.dumps(VALUE).encode("utf-16"), "can't decode"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_could_not_be_written_again_is_refused(name):
    content, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        json_files.parse(content)


def test_whole_characters_in_two_halves_are_read():
    assert json_files.parse(rb'"\ud83d\ude00"') == "\U0001f600"


def test_every_change_of_one_byte_is_seen(tmp_path):
    """Unless the value is the same: white space and the order of keys do not matter."""
    path = tmp_path / "a.json"
    value = {"batch_p": 18, "rate": 3e-4, "at": {0.25: 1.0, 10: 2, 9: 3}, "name": "a b", "t": (1,)}
    files.write_json(path, json_files.with_digest(value))
    content = path.read_bytes()
    stored = json_files.parse(content)
    assert not json_files.is_changed(stored) and stored["at"] == {"0.25": 1.0, "10": 2, "9": 3}
    assert not json_files.is_changed(dict(reversed(stored.items())))
    assert not json_files.is_changed({"without": "a digest"})
    without_digest = {name: stored[name] for name in stored if name != json_files.DIGEST}
    rng = random.Random(0)
    seen = 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        try:
            found = json_files.parse(bytes(flipped))
        except ValueError:
            seen += 1
            continue
        if json_files.is_changed(found):
            seen += 1
        elif json_files.DIGEST in found:
            assert found == stored
        else:  # the name of the digest was hit, and nothing else
            assert {name: found[name] for name in without_digest} == without_digest
    assert seen > 200
