"""Files of tensors: the format that other tools read, and a rename that tells nothing half."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from atoll.node.disk import Disk, load_state
from atoll.node.state_files import draft, keep

RUN_ID = "0" * 64


def test_safetensors_reads_what_was_written_from_pieces(tmp_path: Path) -> None:
    path, pieces = tmp_path / "local.safetensors", [torch.arange(3.0), torch.arange(4.0) - 1]
    keep(draft(path, "7", {"residual": pieces, "other": [torch.ones(1)]}, {"round": "7", "what": "é"}))
    found = load_file(path)
    assert torch.equal(found["residual"], torch.cat(pieces))
    assert found["other"].tolist() == [1.0]
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"round": "7", "what": "é"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0, "values are aligned"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_is_what_the_tensors_were_and_nothing_before_it_is_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    anchor, momentum = torch.arange(5.0), torch.ones(5)
    made = disk.draft_state(3, RUN_ID, anchor, momentum)
    local = disk.draft_local(3, [anchor, momentum])
    anchor.zero_()
    assert disk.states() == []
    assert disk.load_local(3) is None
    disk.keep_state(made)
    disk.keep_local(local)
    (state,) = disk.states()
    found = load_state(state.path)
    assert found[0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert found[1].tolist() == [1.0] * 5
    raw = state.path.read_bytes()
    for offset, vector in zip(state.offsets, found, strict=True):
        assert raw[offset : offset + 20] == vector.numpy().tobytes()
    residual = disk.load_local(3)
    assert residual is not None
    assert residual.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0] + [1.0] * 5
    disk.close()


def test_drafts_of_an_earlier_life_go(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    left = disk.draft_state(4, RUN_ID, torch.ones(2), torch.ones(2))
    disk.close()
    assert left.written.exists()
    Disk(tmp_path).close()
    assert not left.written.exists()


def test_a_draft_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="numpy"):
        draft(tmp_path / "x", "1", {"a": [torch.ones(2), torch.ones(2, requires_grad=True)]}, {})
    assert list(tmp_path.iterdir()) == []
