"""Memory at the beginning of the user's turn: token for token what stands there with the passage itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BackboneError, resolve_backbone
from comem.memory.injection import INJECTIONS
from comem.memory.injection.in_turn import in_turn
from comem.types import Message

PASSAGE, QUESTION, SYSTEM = "The tower is 46 m high.", "How high?", "Be brief."


@pytest.fixture()
def backbone(tiny_qwen2_5_vl: Any, tiny_processor: Any, tiny_backbone_folder: Any) -> HFBackbone:
    return HFBackbone(resolve_backbone(tiny_backbone_folder), copy.deepcopy(tiny_qwen2_5_vl), tiny_processor)


def chat(text: str) -> list[Message]:
    return [Message("system", (SYSTEM,)), Message("user", (text,))]


def test_embeddings_of_the_passage_give_the_logits_of_the_passage(backbone: HFBackbone) -> None:
    """Plain RAG is the reference: the passage's own token embeddings as memory must change nothing."""
    model, way = backbone.model, INJECTIONS["in_turn"](backbone, None)
    ids = torch.tensor([backbone.process.tokenizer(PASSAGE)["input_ids"]])
    memory = model.get_input_embeddings()(ids)[0].detach()
    plain = backbone.process([chat(f"{PASSAGE}\n\n{QUESTION}")])
    asked = backbone.process([chat(QUESTION)])
    with torch.no_grad(), way.attach(model, asked, [memory]) as extended:
        assert extended["input_ids"].shape == plain["input_ids"].shape
        infix = model(**extended).logits
    with torch.no_grad():
        assert torch.allclose(infix, model(**plain).logits, atol=1e-4)


def test_rows_with_and_without_memory_go_together(backbone: HFBackbone) -> None:
    way = in_turn(backbone)
    memory = torch.randn(3, 64)
    chats = [chat(QUESTION), chat("A much longer question about another tower?"), chat(QUESTION)]
    together = backbone.generate(chats, [memory, None, memory * 2], injection=way)
    alone = [
        backbone.generate([c], [m], injection=way)[0].text
        for c, m in zip(chats, [memory, None, memory * 2], strict=True)
    ]
    assert [answer.text for answer in together] == alone
    assert backbone.generate([chats[1]])[0].text == alone[1], "no memory, no blank line"


def test_a_later_turn_is_not_taken_for_the_first(backbone: HFBackbone) -> None:
    way = in_turn(backbone)
    dialogue = [*chat(QUESTION), Message("assistant", ("46 m",)), Message("user", ("And the wall?",))]
    inputs = backbone.process([dialogue])
    assert way.starts(inputs["input_ids"], inputs["attention_mask"]) == way.starts(
        *(backbone.process([chat(QUESTION)])[name] for name in ("input_ids", "attention_mask"))
    )
    with pytest.raises(ValueError, match="no user's turn"):
        way.starts(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]), torch.ones(1, 12))


def test_a_template_without_marks_has_no_place(backbone: HFBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = "{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}"
    monkeypatch.setattr(backbone.processor, "chat_template", bare)
    with pytest.raises(BackboneError, match="no mark of its own"):
        in_turn(backbone)
