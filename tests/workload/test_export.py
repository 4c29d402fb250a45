"""An exported folder is a model that `transformers` loads, with our weights to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from atoll.protocol.errors import ConfigError
from atoll.workload import model as models
from atoll.workload import vector
from atoll.workload.config import ModelConfig
from atoll.workload.export import export


def some_vector(model: Any) -> torch.Tensor:
    return torch.randn(vector.numel(model), generator=torch.Generator().manual_seed(3)) * 0.05


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_what_was_trained(tiny: ModelConfig, tmp_path: Path, tied: bool) -> None:
    config = ModelConfig.from_mapping(
        {"architecture": "llama", "config": {**tiny.config, "tie_word_embeddings": tied}}, ""
    )
    model = models.build(config)
    flat = some_vector(model)
    vector.load(model, flat)
    export(flat, config, tmp_path / "new" / "export")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new" / "export")
    back = torch.empty_like(flat)
    vector.write(loaded, back)
    assert torch.equal(back, flat)
    ids = torch.tensor([tokenizer("def f(x):\n    return é")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)
    assert tokenizer.eos_token_id == loaded.config.eos_token_id == 256
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["export"]


def test_nothing_is_overwritten_or_left_behind(tiny: ModelConfig, tmp_path: Path, monkeypatch: Any) -> None:
    flat = some_vector(models.build(tiny))
    taken = tmp_path / "taken"
    taken.mkdir()
    export(flat, tiny, taken)
    before = {path.name: path.read_bytes() for path in taken.iterdir()}
    with pytest.raises(ConfigError, match="taken: this folder is not empty"):
        export(flat, tiny, taken)
    assert before == {path.name: path.read_bytes() for path in taken.iterdir()}

    def full(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atoll.workload.export.os.replace", full)
    with pytest.raises(ConfigError, match="cannot write: No space left on device"):
        export(flat, tiny, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_place_that_cannot_hold_a_folder_is_refused(tiny: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    flat = some_vector(models.build(tiny))
    with pytest.raises(ConfigError, match="not empty"):
        export(flat, tiny, tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot write: "):
        export(flat, tiny, tmp_path / "file" / "below")
