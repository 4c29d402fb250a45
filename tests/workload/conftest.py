from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from atoll.workload import model as models
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig
from atoll.workload.data import Corpus
from atoll.workload.tokens import ByteTokens

TINY = {
    "architecture": "llama",
    "config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    },
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> ModelConfig:
    return ModelConfig.from_mapping(TINY, "[model]")


@pytest.fixture
def tiny_model(tiny: ModelConfig) -> Any:
    return models.build(tiny)


@pytest.fixture
def inner() -> InnerConfig:
    section = {"steps": 8, "batch_sequences": 4, "learning_rate": 3e-3, "warmup_steps": 4, "total_steps": 200}
    return InnerConfig.from_mapping(section, "[inner]")


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    section = {"sequence_tokens": 64, "bytes_max": 1_000_000}
    return Corpus.load(DataConfig.from_mapping(section, "[data]"), ByteTokens())


@pytest.fixture
def write_texts(tmp_path: Path) -> Any:
    """Write texts as files and give the source that names them."""

    def write(texts: dict[str, str], folder: str = "texts") -> str:
        for name, text in texts.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return f"text:{tmp_path}/{folder}/**"

    return write
