"""Text to token ids and back: bytes by default, or a tokenizer.json.

Bytes need no download and no training, and any text is encodable. Id b is byte b; id 256 ends a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from atoll.protocol.errors import ConfigError
from atoll.workload.config import BYTES

END_OF_TEXT = "<|endoftext|>"
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")

Ids = npt.NDArray[np.int64]


class Tokens(Protocol):
    """`vocabulary` ids are in use, `end` among them; a model may have a few rows more."""

    vocabulary: int
    end: int
    spare: int

    def encode(self, text: str) -> Ids: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def save_pretrained(self, folder: Path) -> None: ...


class ByteTokens:
    """Ids 0 to 255 are bytes, 256 ends a text. Up to two more rows may stand for begin and pad."""

    vocabulary = 257
    end = 256
    spare = 2

    def encode(self, text: str) -> Ids:
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def save_pretrained(self, folder: Path) -> None:
        """Write the same ids as a BPE without merges over the ByteLevel alphabet."""
        vocabulary = {character: byte for byte, character in enumerate(byte_alphabet())}
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
        # The text "<|endoftext|>" is 13 bytes like any other; only a document's real end has id 256.
        tokenizer.encode_special_tokens = True
        _save(tokenizer, END_OF_TEXT, folder, split_special_tokens=True)


class FileTokens:
    """The ids of a tokenizer.json."""

    spare = 1024  # embeddings are often padded to a round number of rows

    def __init__(self, path: str, sha256: str = "") -> None:
        self._tokenizer = _read(path, sha256)
        self.vocabulary = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.end_name, self.end = _end(self._tokenizer, path)

    def encode(self, text: str) -> Ids:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode([i for i in ids if i < self.vocabulary]))

    def save_pretrained(self, folder: Path) -> None:
        _save(self._tokenizer, self.end_name, folder, split_special_tokens=False)


def load(tokenizer: str, sha256: str = "") -> Tokens:
    """Give the tokens that a model configuration names. Raises ConfigError."""
    return ByteTokens() if tokenizer == BYTES else FileTokens(tokenizer, sha256)


def digest(tokenizer: str) -> str:
    """Give the SHA-256 of a tokenizer file, empty for bytes."""
    return "" if tokenizer == BYTES else hashlib.sha256(_content(tokenizer)).hexdigest()


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in a ByteLevel vocabulary. (GPT-2)"""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def _content(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        right = '"bytes", or the path of a tokenizer.json'
        raise ConfigError(f"cannot read the tokenizer: {error.strerror}", path, right) from error


def _read(path: str, sha256: str) -> Tokenizer:
    content = _content(path)
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise ConfigError(f"this tokenizer has SHA-256 {found}", path, f"the run uses {sha256}")
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise ConfigError(f"not a tokenizer.json: {error}", path) from error
    if not tokenizer.get_vocab_size():
        raise ConfigError("this tokenizer has no tokens", path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _end(tokenizer: Tokenizer, path: str) -> tuple[str, int]:
    for name in END_NAMES:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return name, int(number)
    raise ConfigError("no token that ends a text", path, "one of " + ", ".join(END_NAMES))


def _save(tokenizer: Tokenizer, end: str, folder: Path, split_special_tokens: bool) -> None:
    from transformers import PreTrainedTokenizerFast  # the rest of this module works without it

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        split_special_tokens=split_special_tokens,
    ).save_pretrained(str(folder))
