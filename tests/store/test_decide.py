"""Typed decisions: without memory those of transformers' own pipeline; with it, what is remembered counts."""

from __future__ import annotations

import pytest
import torch
from store.conftest import QUESTION

from comem.io.images import open_image
from comem.store.decide import Decider
from comem.toy.draw import image_of

pytest.importorskip("transformers.decision", reason="a transformers without decisions")

ASKED = {
    "old": {"type": "noul", "instructions": "Is the town old?"},
    "stone": {
        "type": "choice",
        "instructions": "What are the walls made of?",
        "criteria": {"marble": None, "flint": None, "chalk": "white"},
    },
    "size": {"type": "score", "instructions": "How large is it?", "criteria": ["small", "middle", "large"]},
}  # fmt: skip


def numbers(answers: dict) -> list[float]:
    found = [answers["old"]["noul"], answers["size"]["score"], answers["stone"]["confidence"]]
    return (
        found
        + list(answers["stone"]["probabilities"].values())
        + list(answers["size"]["probabilities"].values())
    )


@pytest.fixture(scope="session")
def pipeline(models):
    from transformers.pipelines import DecisionPipeline

    decider, backbone = Decider(models.backbone, models.injection), models.backbone
    return DecisionPipeline(
        model=backbone.model, tokenizer=decider._tokenizer, processor=decider._processor,
        decision_config=decider.config,
    )  # fmt: skip


def test_without_memory_it_is_the_pipelines(remembered, towns, pipeline) -> None:
    from comem.memory.lora import adapters_off

    image = image_of(towns[0], view=1)
    for state, assets in (
        ("A town with walls.", {}),
        ({"seen": "photo", "walls": [1, "x"]}, {"photo": image}),
    ):
        with adapters_off(remembered.models.backbone.model):
            request = {
                "state": state,
                "questions": ASKED,
                "assets": {n: open_image(i) for n, i in assets.items()},
            }
            wanted = pipeline(request)
        decided = remembered.decide(state, ASKED, assets=assets, k=0)
        assert numbers(decided.answers) == pytest.approx(numbers(wanted), abs=1e-5)
        assert list(decided.answers) == list(ASKED) and decided.items == ()
        assert all(0 <= each["label_mass"] <= 1 for each in decided.diagnostics.values())


def test_memories_stand_before_the_prompt(remembered, towns) -> None:
    """The label's logits equal those of one pass over the memory and the prompt as embeddings."""
    decider = Decider(remembered.models.backbone, remembered.models.injection)
    model = remembered.models.backbone.model
    inputs, asked = decider._decision.prepare_inputs(
        decider.config, {"state": "A town.", "questions": {"old": ASKED["old"]}}, decider._processor
    )[0]
    memory = torch.randn(8, 128)
    given = {name: value for name, value in inputs.items() if name != "marks"}
    found = decider._logits(given, inputs["marks"] - 1, memory)
    from comem.memory.lora import adapters_off

    with torch.no_grad(), adapters_off(model):
        words = model.get_input_embeddings()(inputs["input_ids"])
        whole = model(inputs_embeds=torch.cat([memory[None], words], dim=1), use_cache=False).logits[0, -1]
    assert torch.allclose(found[0], whole, atol=1e-4)


def test_what_is_remembered_counts(remembered, towns) -> None:
    image = image_of(towns[0], view=1)
    asked = {
        "stone": {"type": "choice", "instructions": QUESTION, "criteria": {"marble": None, "flint": None}}
    }
    without = remembered.decide("photo", asked, assets={"photo": image}, k=0)
    decided = remembered.decide("photo", asked, assets={"photo": image}, k=1)
    assert [item.id for item in decided.items] == [towns[0].id]
    assert decided.input_tokens == without.input_tokens + 8
    assert decided.answers != without.answers
    assert (
        remembered.decide("photo", asked, assets={"photo": image}, user_id="nobody").answers
        == without.answers
    )


def test_the_backbones_tokenizer_is_left_alone(remembered, models) -> None:
    before = len(models.backbone.processor.tokenizer)
    remembered.decide("x", {"old": ASKED["old"]}, k=0)
    assert len(models.backbone.processor.tokenizer) == before


def test_questions_that_are_none(remembered) -> None:
    with pytest.raises(ValueError, match="toy takes 8192"):
        remembered.decide("word " * 10_000, {"old": ASKED["old"]})
    for questions in ({}, {"a": {"type": "guess"}}, {"a": {"type": "choice", "criteria": {}}}):
        with pytest.raises(ValueError, match="(?i)question"):
            remembered.decide("x", questions)
