"""Our ids are the ids that `transformers` reads from what we save."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

from atoll.protocol.errors import ConfigError
from atoll.workload import tokens as token_sets
from atoll.workload.tokens import ByteTokens, FileTokens

TEXTS = ["", " lead", "def f():\n\treturn 'é漢字🙂'", "<|endoftext|> is text", "\x00\x7f", "don't   do"]


def train_tokenizer(path: Path, end: str = "</s>") -> Path:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["return the self of the import", "def the return"] * 3, trainer)
    tokenizer.save(str(path))
    return path


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_bytes_come_back(text: str) -> None:
    tokens = ByteTokens()
    assert tokens.decode(tokens.encode(text)) == text
    assert tokens.decode([*tokens.encode(text), tokens.end]) == text


def test_saved_bytes_agree_with_transformers(tmp_path: Path) -> None:
    tokens = ByteTokens()
    tokens.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    every = "".join(chr(i) for i in range(0x20, 0x800))
    for text in [*TEXTS, every]:
        assert loaded(text)["input_ids"] == tokens.encode(text).tolist()
        assert loaded.decode(tokens.encode(text).tolist()) == text
    assert len(loaded) == tokens.vocabulary
    assert loaded.eos_token_id == tokens.end


def test_a_tokenizer_file_keeps_its_ids(tmp_path: Path) -> None:
    path = train_tokenizer(tmp_path / "tokenizer.json")
    tokens = token_sets.load(str(path), token_sets.digest(str(path)))
    tokens.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in TEXTS[1:]:
        assert loaded(text, add_special_tokens=False)["input_ids"] == tokens.encode(text).tolist()
        assert tokens.decode(tokens.encode(text).tolist()) == text
    assert len(tokens.encode("return the self")) < 8
    assert (tokens.vocabulary, tokens.end) == (len(loaded), 0)


def test_tokenizer_files_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the tokenizer: No such file"):
        FileTokens(str(tmp_path / "missing.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not a tokenizer"):
        FileTokens(str(tmp_path / "broken.json"))
    path = str(train_tokenizer(tmp_path / "endless.json", end="[SEP]"))
    with pytest.raises(ConfigError, match="no token that ends a text"):
        FileTokens(path)
    with pytest.raises(ConfigError, match="the run uses 00"):
        FileTokens(path, "00")
