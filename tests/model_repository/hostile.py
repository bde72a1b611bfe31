"""Archives, manifests and models that are made to do harm, each with what it is refused for."""

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.tree import DecisionTreeRegressor

from model_repository import create_package
from model_repository.estimators import dump_estimator
from model_repository.manifest import EstimatorMember, Manifest, Member, manifest_bytes, manifest_from
from model_repository.mlpkg import write_package
from model_repository.predictions import Target
from model_repository.tables import Feature

CONTENTS = {
    "golden.json": b'{"golden": "rows"}' * 20,
    "estimator.skops": b"estimator" * 50,
    "plan.bin": bytes(range(256)),
}
MANIFEST = Manifest(
    format_version=1,
    model_id="0123456789abcdef01234567",
    name="m",
    created="2026-01-01T00:00:00Z",
    target=Target(name="y", type="Regression"),
    features=[Feature(name="x", type="numeric", dtype="float64")],
    versions={"python": "3.11"},
    members=[],
    golden="golden.json",
    estimator=EstimatorMember(member="estimator.skops", serializer="skops"),
)


def listed(contents: dict[str, bytes]) -> Manifest:
    members = [
        Member(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in contents.items()
    ]
    return msgspec.structs.replace(MANIFEST, members=members)


class Draft:
    """A ZIP whose every field can be set; made valid first, then spoiled."""

    def __init__(self, contents: dict[str, bytes] | None = None) -> None:
        contents = CONTENTS if contents is None else contents
        everything = {"manifest.json": manifest_bytes(listed(contents)), **contents}
        self.members = [self.member(name.encode(), data) for name, data in everything.items()]
        self.before = b""
        self.after = b""
        self.gap = b""
        self.count: int | None = None
        self.entry_mark = b"PK\1\2"
        self.parts = (0, 0, 0)
        """Numbers of this part and of the directory's, and how many members are in another one."""

    @staticmethod
    def member(name: bytes, data: bytes) -> dict[str, Any]:
        same = {"needed": 20, "flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(data)}
        same |= {"stored": len(data), "size": len(data)}
        return {
            "name": name, "local_name": name, "data": data, "central": dict(same), "local": dict(same),
            "extra": b"", "local_extra": b"", "comment": b"", "mode": 0o100644, "offset": None,
        }  # fmt: skip

    def named(self, name: str) -> dict[str, Any]:
        return next(member for member in self.members if member["name"] == name.encode())

    def bytes(self) -> bytes:
        out = bytearray(self.before)
        directory = bytearray()
        for member in self.members:
            local, central = member["local"], member["central"]
            offset = len(out) if member["offset"] is None else member["offset"]
            if member["data"] is not None:
                out += struct.pack(
                    "<4s5H3L2H", b"PK\3\4", *local.values(), len(member["local_name"]), len(member["local_extra"])
                )
                out += member["local_name"] + member["local_extra"] + member["data"]
            directory += struct.pack(
                "<4s6H3L5H2L", self.entry_mark, 0x314, *central.values(), len(member["name"]), len(member["extra"]),
                len(member["comment"]), 0, 0, member["mode"] << 16, offset,
            )  # fmt: skip
            directory += member["name"] + member["extra"] + member["comment"]
        out += self.gap
        count = len(self.members) if self.count is None else self.count
        disk, first_disk, elsewhere = self.parts
        counts = disk, first_disk, (count - elsewhere) & 0xFFFF, count & 0xFFFF
        end = struct.pack("<4s4H2LH", b"PK\5\6", *counts, len(directory), len(out), 0)
        return bytes(out + directory + end + self.after)


def both(draft: Draft, name: str, **fields: int) -> None:
    for place in ("central", "local"):
        draft.named(name)[place].update(fields)


def central(draft: Draft, name: str, **fields: int) -> None:
    draft.named(name)["central"].update(fields)


def renamed(name: bytes) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        draft.named("plan.bin").update(name=name, local_name=name)

    return spoil


def overlapping(draft: Draft) -> None:
    """Two entries of the directory that share one member's bytes."""
    draft.members.append({**draft.named("plan.bin"), "name": b"twin.bin", "local_name": b"twin.bin"})
    draft.members[-1]["data"] = None
    draft.members[-1]["offset"] = 40


def quoted_overlap(draft: Draft) -> None:
    """One large member whose data contains the next one: the trick behind bombs of small files."""
    inner = draft.named("plan.bin")
    both(draft, "estimator.skops", stored=600, size=600)
    assert inner["data"]


def bomb(draft: Draft) -> None:
    data = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = data.compress(bytes(50_000_000)) + data.flush()
    draft.named("plan.bin")["data"] = stored
    both(draft, "plan.bin", method=8, stored=len(stored), size=50_000_000, crc=zlib.crc32(bytes(50_000_000)))


def lying_bomb(draft: Draft) -> None:
    data = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = data.compress(bytes(50_000_000)) + data.flush()
    draft.named("plan.bin")["data"] = stored
    both(draft, "plan.bin", method=8, stored=len(stored), size=256)


def set_fields(**fields: object) -> Callable[[Draft], None]:
    return lambda draft: draft.named("plan.bin").update(fields)


def many(count: int) -> Callable[[Draft], None]:
    return lambda draft: draft.members.extend(Draft.member(b"m%d" % number, b"") for number in range(count))


def attribute(name: str, value: object) -> Callable[[Draft], None]:
    return lambda draft: setattr(draft, name, value)


HOSTILE: list[Any] = [
    pytest.param(attribute("before", b"#!/bin/sh\n"), "begins at byte|does not end where", id="something before the archive"),
    pytest.param(attribute("before", bytes(1_000_000)), "begins at byte|does not end", id="a megabyte before the archive"),
    pytest.param(attribute("after", b"\0"), "does not end with the end record", id="one byte behind the archive"),
    pytest.param(lambda d: setattr(d, "after", d.bytes()), "does not end where", id="an archive behind the archive"),
    pytest.param(lambda d: setattr(d, "after", d.bytes()[-22:]), "does not end where", id="two end records"),
    pytest.param(attribute("gap", b"hidden"), "but the directory begins", id="bytes between members and directory"),
    pytest.param(overlapping, "begins at byte", id="overlapping members"),
    pytest.param(quoted_overlap, "begins at byte|disagree", id="a member inside another"),
    pytest.param(lambda d: d.members.append(d.named("plan.bin")), "stands twice", id="duplicate member"),
    pytest.param(lambda d: d.members.append(d.members[0]), "stands twice", id="two manifests"),
    pytest.param(lambda d: central(d, "plan.bin", stored=0xFFFFFFFF, size=0xFFFFFFFF), r"'plan\.bin': 4294967295 bytes, at most", id="zip64 sizes"),
    pytest.param(lambda d: both(d, "plan.bin", stored=0x7FFFFFF0, size=0x7FFFFFF0), "beyond the directory", id="a size beyond the file"),
    pytest.param(set_fields(extra=struct.pack("<2H2Q", 1, 16, 2**63, 2**63)), "extra fields", id="zip64 extra field"),
    pytest.param(set_fields(local_extra=b"\1\0\0\0"), "disagree", id="extra field in the member's header only"),
    pytest.param(set_fields(comment=b"hello"), "comments", id="comment of a member"),
    pytest.param(set_fields(local_name=b"plan.bim"), "disagree", id="two names"),
    pytest.param(lambda d: central(d, "plan.bin", size=255, stored=255), "disagree|begins", id="two sizes"),
    pytest.param(lambda d: central(d, "plan.bin", method=8), "disagree", id="two methods"),
    pytest.param(lambda d: central(d, "plan.bin", crc=1), "disagree", id="two checksums"),
    pytest.param(lambda d: both(d, "plan.bin", crc=1), "CRC", id="wrong checksum"),
    pytest.param(lambda d: both(d, "plan.bin", flags=1), "encrypted", id="encrypted"),
    pytest.param(lambda d: both(d, "plan.bin", flags=8), "flags", id="data descriptor"),
    pytest.param(lambda d: both(d, "plan.bin", method=12), "method 12", id="bzip2"),
    pytest.param(lambda d: both(d, "plan.bin", method=14), "method 14", id="lzma"),
    pytest.param(lambda d: both(d, "plan.bin", method=93), "method 93", id="zstandard"),
    pytest.param(lambda d: both(d, "plan.bin", method=99), "method 99", id="AES"),
    pytest.param(lambda d: both(d, "plan.bin", method=8), "inflate", id="not deflated at all"),
    pytest.param(bomb, "more than 100 times", id="announced bomb"),
    pytest.param(lying_bomb, "does not inflate to", id="bomb that lies about its size"),
    pytest.param(lambda d: d.members.pop(0), r"no manifest\.json", id="no manifest"),
    pytest.param(many(61), "65 members", id="too many members"),
    pytest.param(many(60_000), "members", id="sixty thousand members"),
    pytest.param(attribute("entry_mark", b"PK\1\3"), "damaged", id="no directory"),
    pytest.param(attribute("parts", (1, 0, 0)), "several parts", id="second part of an archive"),
    pytest.param(attribute("parts", (0, 1, 0)), "several parts", id="directory in another part"),
    pytest.param(attribute("parts", (0, 0, 1)), "several parts", id="a member in another part"),
    pytest.param(lambda d: both(d, "plan.bin", size=300), "with two sizes", id="stored with two sizes"),
    pytest.param(renamed(b"x" * 65_000), "directory of 65", id="name of 65,000 bytes"),
    pytest.param(attribute("count", 3), "longer than", id="fewer members counted"),
    pytest.param(attribute("count", 5), "cut off", id="more members counted"),
    pytest.param(attribute("count", 0), "0 members", id="no members counted"),
    pytest.param(set_fields(mode=0o120777), "not a plain file", id="symbolic link"),
    pytest.param(set_fields(mode=0o040755), "not a plain file", id="directory"),
    pytest.param(set_fields(mode=0o010644), "not a plain file", id="FIFO"),
    pytest.param(set_fields(mode=0o020644), "not a plain file", id="device"),
    pytest.param(set_fields(mode=0o104755), "not a plain file", id="set-uid"),
    *(
        pytest.param(renamed(name), "member name", id=f"name {name[:20]!r}")
        for name in (b"../x", b"/abs", b"C:\\x", b"a\\..\\b", b"a//b", b"./a", b"x\0.bin", b"", b"x" * 65,
                     b".hidden", b"-rf", b"PLAN.BIN", "é.bin".encode(), "e\u0301.bin".encode(), b"sub/plan.bin", b"\xff", b"a\n")
    ),
]  # fmt: skip


def manifest_with(**changes: Any) -> bytes:
    """That of a good package, with other values at these keys."""
    return json.dumps(json.loads(manifest_bytes(listed(CONTENTS))) | changes).encode()


def archive_with(manifest: bytes) -> bytes:
    draft = Draft()
    draft.members[0] = Draft.member(b"manifest.json", manifest)
    return draft.bytes()


HOSTILE_MANIFESTS: list[Any] = [
    pytest.param(b" " * (4 * 1024 * 1024 + 1), "larger than 4194304", id="too large"),
    pytest.param(b"", "Expecting value", id="empty"),
    pytest.param(b"[]", "Expected `object`, got `array`", id="a list"),
    pytest.param(b"\xff{}", "codec", id="no UTF-8"),
    pytest.param(manifest_with().decode().encode("utf-16"), "invalid|malformed|codec", id="UTF-16"),
    pytest.param(manifest_with()[:-1], "Expecting", id="cut off"),
    pytest.param(b"[" * 1_000_000, "nested deeper than 16", id="a million brackets"),
    pytest.param(manifest_with(more=json.loads("[" * 16 + "]" * 16)), "nested deeper than 16", id="a little too deep"),
    pytest.param(b'"' + b'\\"' * 2_000_000, "Unterminated string", id="quotes without end"),
    pytest.param(b'{"name": "other", ' + manifest_with()[1:], "key 'name' stands twice", id="a key twice"),
    pytest.param(b"{" + b",".join(b'"%d":0' % key for key in (*range(200_000), 199_999)) + b"}", "'199999' stands twice",
                 id="a key twice among many"),
    pytest.param(b'{"format_version": ' + b"9" * 5000 + b"}", "Exceeds the limit", id="a number of 5000 digits"),
    pytest.param(manifest_with(format_version=99), "package format 99 is not supported", id="unknown version"),
    pytest.param(manifest_with(format_version=2), "timeseries belongs to format 2", id="a time series without one"),
    pytest.param(manifest_with(format_version="1"), "format_version", id="a version that is text"),
    pytest.param(manifest_with(features={}), "Expected `array`, got `object` - at `\\$.features`", id="wrong type"),
    pytest.param(manifest_with(features=[]), "no features", id="no features"),
    pytest.param(manifest_with(features=[{"name": "x", "type": "numeric", "dtype": "float64"}] * 2), "a feature name stands twice",
                 id="a feature twice"),
    pytest.param(manifest_with(target={"name": "y", "type": "Binary", "class_labels": ["a"]}), "1 class labels do not fit a Binary",
                 id="too few classes"),
    pytest.param(manifest_with(target={"name": "y", "type": "Anomaly"}, exposure="x"), "an exposure column with a Anomaly",
                 id="exposure of an anomaly"),
    pytest.param(manifest_with(model_id="../../x"), "model_id", id="an id that climbs"),
    pytest.param(manifest_with(golden="../golden.json"), r"'\.\./golden\.json' is used but not listed", id="a member outside"),
    pytest.param(manifest_with(golden="/etc/passwd"), "'/etc/passwd' is used but not listed", id="a file of the machine"),
    pytest.param(manifest_with(golden="."), "'.' is used but not listed", id="a directory"),
    pytest.param(manifest_with(golden="manifest.json"), "'manifest.json' is used but not listed", id="the manifest itself"),
    pytest.param(manifest_with(estimator={"member": "estimator.skops", "serializer": "pickle"}), "Invalid enum value 'pickle'",
                 id="unknown format of the estimator"),
    *(
        pytest.param(manifest_bytes(manifest), message, id=name)
        for manifest, message, name in (
            (listed({**CONTENTS, "more.bin": b""}), "'more.bin' is listed in the manifest but not", "a member missing"),
            (listed({k: v for k, v in CONTENTS.items() if k != "plan.bin"}), "'plan.bin' is in the archive but not", "a member unlisted"),
            (listed({**CONTENTS, "plan.bin": b"other" * 51 + b"!"}), "'plan.bin': its SHA-256", "other content of equal size"),
            (listed({**CONTENTS, "plan.bin": b"short"}), "the manifest says 5", "other size"),
            (msgspec.structs.replace(listed(CONTENTS), members=[*listed(CONTENTS).members] * 2), "listed twice", "listed twice"),
            (listed({**CONTENTS, "manifest.json": b""}), "'manifest.json' is listed", "lists itself"),
        )
    ),
]  # fmt: skip


def rewritten(source: Path, path: Path, members: dict[str, bytes], **changes: Any) -> Path:
    """A copy without the plan, with other members and other fields of the manifest."""
    with zipfile.ZipFile(source) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.startswith("plan")}
    manifest = manifest_from(contents.pop("manifest.json"))
    manifest = msgspec.structs.replace(manifest, **{"plan": None, "not_compiled": "left out", **changes})
    write_package(path, manifest, contents | members)
    return path


def tree_with_child(directory: Path, child: int) -> Path:
    """
    A package without a plan whose tree, in a format that is trusted, has this child under its root on both sides.

    Its golden rows are those of the tree before.
    """
    sample = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0) ** 2})
    tree = DecisionTreeRegressor(max_depth=3).fit(sample[["x"]], sample["y"])
    create_package(directory / "good.mlpkg", tree, sample, target="y")
    state = tree.tree_.__getstate__()
    state["nodes"]["left_child"][0] = state["nodes"]["right_child"][0] = child
    tree.tree_.__setstate__(state)
    members = {"estimator.skops": dump_estimator(tree, "skops")}
    return rewritten(directory / "good.mlpkg", directory / "bad.mlpkg", members)
