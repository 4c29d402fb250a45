"""Machines with the same files hold the same corpus, and the held-out part is never trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.protocol.errors import ConfigError
from atoll.workload import documents
from atoll.workload.config import DataConfig
from atoll.workload.data import Corpus, split
from atoll.workload.tokens import ByteTokens


def config(source: str = "stdlib", **more: Any) -> DataConfig:
    return DataConfig.from_mapping({"source": source, "sequence_tokens": 16, **more}, "[data]")


def texts(count: int, words: str = "some words") -> dict[str, str]:
    return {f"{i:03}.txt": f"text {i}\n{words * 10}\n" for i in range(count)}


def test_the_standard_library_fills_a_corpus_up_to_the_cap() -> None:
    loaded = documents.load(config(bytes_max=300_000), "")
    size = sum(len(document.content) for document in loaded)
    assert 290_000 < size <= 300_000
    assert sum(b"import " in document.content for document in loaded) > 5
    assert loaded == documents.load(config(bytes_max=300_000), "")


def test_folder_names_do_not_change_the_corpus(write_texts: Any) -> None:
    here = write_texts(texts(40), "here")
    there = write_texts(
        {f"{i}/{name}": text for i, (name, text) in enumerate(texts(40).items())}, "over/there"
    )
    one, other = (Corpus.load(config(source), ByteTokens()) for source in (here, there))
    assert one.digest == other.digest
    assert (one.heldout(9) == other.heldout(9)).all()


def test_windows_follow_each_other_and_share_one_token(write_texts: Any) -> None:
    corpus = Corpus.load(config(write_texts(texts(40))), ByteTokens())
    batch = corpus.batch(range(corpus.windows))
    assert batch.shape == (corpus.windows, 17)
    assert batch.dtype == np.int64
    assert (batch[1:, 0] == batch[:-1, -1]).all()
    assert (batch == ByteTokens.end).sum() > 30


def test_no_text_is_on_both_sides(write_texts: Any) -> None:
    twins = {f"copy {i}.txt": text for i, text in enumerate(texts(40).values())}
    loaded = documents.load(config(write_texts({**texts(40), **twins})), "")
    training, heldout = split(loaded, 0.2)
    assert not {t.content for t in training} & {t.content for t in heldout}
    assert len(training) + len(heldout) == 80
    assert 4 <= len(heldout) <= 32


def test_a_text_that_one_machine_lacks_moves_no_other(write_texts: Any) -> None:
    loaded = documents.load(config(write_texts(texts(60))), "")
    side = {text.content: text in split(loaded, 0.3)[1] for text in loaded}
    fewer = loaded[::2]
    assert {text.content: text in split(fewer, 0.3)[1] for text in fewer} == {
        t.content: side[t.content] for t in fewer
    }


def test_one_long_text_still_has_a_heldout_part(write_texts: Any) -> None:
    long = "".join(f"line {i} é\n" for i in range(40_000))
    source = write_texts({"long.txt": long})
    loaded = documents.load(config(source), "")
    assert b"".join(piece.content for piece in loaded).decode() == long
    assert [piece.last for piece in loaded] == [False] * (len(loaded) - 1) + [True]
    assert all(piece.content.endswith(b"\n") for piece in loaded)
    assert Corpus.load(config(source), ByteTokens()).heldout_windows > 0


def test_a_long_line_is_cut_between_characters(write_texts: Any) -> None:
    line = "漢字" * 30_000
    loaded = documents.load(config(write_texts({"line.txt": line})), "")
    assert "".join(piece.content.decode("utf-8") for piece in loaded) == line


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00binary"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.txt: (the file is empty|not UTF-8 text)"):
        documents.load(config(f"text:{tmp_path}/*.txt"), "[data]")


def test_a_glob_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.toml \[data\]: .*matches no file"):
        documents.load(config(f"text:{tmp_path}/*.nothing"), "run.toml [data]")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read anything
    with pytest.raises(ConfigError, match=r"a\.txt: cannot read it: Permission denied"):
        documents.load(config(f"text:{tmp_path}/*"), "")


def test_too_little_text_is_refused(write_texts: Any) -> None:
    with pytest.raises(ConfigError, match=r"part of .* is shorter than one window"):
        Corpus.load(config(write_texts(texts(3, "")), sequence_tokens=4096), ByteTokens())
