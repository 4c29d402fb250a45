"""What a researcher writes is read exactly or refused with the nearest right thing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from atoll.protocol.errors import ConfigError
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig

LLAMA = {"architecture": "llama"}


@pytest.mark.parametrize(
    ("kind", "section", "words"),
    [
        (
            InnerConfig,
            {"lerning_rate": 1e-3},
            ["run.toml [x]", "`lerning_rate`", "did you mean `learning_rate`?"],
        ),
        (InnerConfig, {"steps": "50"}, ["`steps` is '50'", "a whole number from 1"]),
        (InnerConfig, {"steps": True}, ["`steps` is True"]),
        (InnerConfig, {"steps": 0}, ["`steps` is 0"]),
        (InnerConfig, {"steps": 5.0}, ["`steps` is 5.0"]),
        (InnerConfig, {"learning_rate": float("nan")}, ["`learning_rate` is nan"]),
        (InnerConfig, {"betas": [0.9]}, ["`betas`", "[0.9, 0.95]"]),
        (InnerConfig, {"betas": [0.9, 1.0]}, ["`betas`"]),
        (InnerConfig, {"warmup_steps": 10, "total_steps": 10}, ["`warmup_steps` is 10", "total_steps = 10"]),
        (DataConfig, {"source": "stdlb"}, ["`source` is 'stdlb'", '"stdlib"']),
        (DataConfig, {"source": "text:"}, ["`source` is 'text:'"]),
        (DataConfig, {"heldout_share": 1}, ["`heldout_share` is 1"]),
        (DataConfig, {"zzz": 1}, ["unknown key `zzz`", "known: bytes_max"]),
        (ModelConfig, {}, ["missing key `architecture`"]),
        (ModelConfig, {"architecture": 3}, ["`architecture` is 3", "text in quotes"]),
        (ModelConfig, {**LLAMA, "config": "big"}, ["`config` is 'big'", "a table"]),
        (ModelConfig, {**LLAMA, "checkpoint": "x", "config": {"hidden_size": 4}}, ["both given"]),
    ],
)
def test_mistakes_name_the_place_and_the_remedy(kind: Any, section: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        kind.from_mapping(section, "run.toml [x]")
    for word in words:
        assert word in str(caught.value)


def test_a_section_survives_json_and_comes_back_equal() -> None:
    model = ModelConfig.from_mapping({**LLAMA, "config": {"hidden_size": 8}, "seed": 7}, "")
    inner = InnerConfig.from_mapping({"learning_rate": 1, "betas": [0.8, 0.9]}, "")
    data = DataConfig.from_mapping({}, "")
    assert inner.learning_rate == 1.0
    assert inner.betas == (0.8, 0.9)
    for config in (model, inner, data):
        assert type(config).from_mapping(json.loads(json.dumps(asdict(config))), "") == config


def test_reading_a_configuration_needs_no_torch() -> None:
    code = "import sys, atoll.workload, atoll.workload.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
