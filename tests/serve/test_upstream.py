"""The gateway to vLLM: a stand-in reads the payload as vLLM's documents say, and runs the embedded model.

No vLLM runs here (it needs a GPU): payload, order and positions are compared with our own assembly, and the
answer with our own.
"""

from __future__ import annotations

import base64
import io
import json
import pickletools
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from serve.test_server import TRIP, Running, chat
from store.conftest import QUESTION

import comem

pytest.importorskip("fastapi")

# ruff: noqa: E402
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image

from comem.backbones.base import Message
from comem.memory.injection import INJECTIONS
from comem.memory.lora import adapters_off
from comem.serve.app import build_app
from comem.serve.run import serve
from comem.serve.settings import Keys, ServeSettings
from comem.serve.upstream import embeds_part, memory_template
from comem.store.shapes import Ask
from comem.toy.draw import image_of

DTYPES = {"BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32, "HalfStorage": torch.float16}


def tensor_of(data: str) -> torch.Tensor:
    """What `torch.save` wrote: the bytes out of its archive; shape and type listed, never run."""
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(data, validate=True)))
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    listed = list(pickletools.genops(archive.read(names["data.pkl"])))
    kinds = [arg.rpartition(" ")[2] for op, arg, _ in listed if op.name == "GLOBAL"]
    numel, offset, rows, width = [arg for op, arg, _ in listed if op.name.startswith("BININT")][:4]
    (dtype,) = (DTYPES[kind] for kind in kinds if kind in DTYPES)
    raw = archive.read(names["data/0"])
    assert offset == 0 and numel == rows * width and len(raw) == numel * dtype.itemsize, "only what is sent"
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(rows, width)


class StandIn:
    """Reads a chat as vLLM's documents have it: template around the content, each part where it stands."""

    def __init__(self, backbone: Any, template: str) -> None:
        self.backbone, self.template = backbone, template
        self.mark, self.mark_id = backbone.process.video_marker  # stands for vLLM's own special token
        self.seen: list[dict[str, Any]] = []
        self.status = 200

    def read(self, messages: list[dict[str, Any]]) -> tuple[dict[str, Any], list[torch.Tensor]]:
        images, tensors, turns = [], [], []
        for message in messages:
            parts = []
            for part in message["content"]:
                if part["type"] == "prompt_embeds":
                    tensors.append(tensor_of(part["data"]))
                    parts.append({"type": "text", "text": self.mark})
                elif part["type"] == "image_url":
                    encoded = part["image_url"]["url"].partition("base64,")[2]
                    images.append(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            turns.append({"role": message["role"], "content": parts})
        processor = self.backbone.process.processor
        text = processor.apply_chat_template(
            turns, chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        given = {"images": [images]} if images else {}
        return dict(processor(text=[text], return_tensors="pt", **given)), tensors

    def spliced(self, inputs: dict[str, Any], tensors: list[torch.Tensor]) -> dict[str, Any]:
        """Each mark as often as its tensor has rows."""
        ids, left = [], list(tensors)
        for one in inputs["input_ids"][0].tolist():
            ids += [one] * (len(left.pop(0)) if one == self.mark_id else 1)
        assert not left
        ids = torch.tensor([ids])
        image = self.backbone.model.config.image_token_id
        fresh = {"attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == image).int()}
        return {**inputs, "input_ids": ids, **{n: fresh[n] for n in fresh if n in inputs}}

    def answer(self, messages: list[dict[str, Any]], tokens: int) -> str:
        inputs, tensors = self.read(messages)
        inputs = self.spliced(inputs, tensors)
        model, length = self.backbone.model, inputs["input_ids"].shape[1]

        def splice(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
            if not tensors or args[0].shape[1] != length:
                return None
            where = (args[0] == self.mark_id)[..., None]
            return output.masked_scatter(where, torch.cat(tensors).to(output))

        hook = model.get_input_embeddings().register_forward_hook(splice)
        try:
            with torch.no_grad(), adapters_off(model):
                made = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        finally:
            hook.remove()
        tokenizer = self.backbone.process.tokenizer
        return tokenizer.decode(made[0, length:], skip_special_tokens=True).strip()

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict:
            return {"data": [{"id": "served/model"}]}

        @app.post("/v1/chat/completions", response_model=None)
        async def completions(request: Request) -> Any:
            body = await request.json()
            self.seen.append({**body, "_key": request.headers.get("authorization")})
            if self.status != 200:
                return JSONResponse({"error": {"message": "not enabled"}}, self.status)
            text = self.answer(body["messages"], body.get("max_tokens", 16))
            head = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"]}
            if not body.get("stream"):
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
                usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
                return {**head, "choices": [choice], "usage": usage}

            async def events() -> Any:
                chunk = {**head, "object": "chat.completion.chunk"}
                for piece in text.split(" "):
                    choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
                    yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
                last = {"index": 0, "delta": {}, "finish_reason": "stop"}
                yield f"data: {json.dumps({**chunk, 'choices': [last]})}\n\ndata: [DONE]\n\n"

            return StreamingResponse(events(), media_type="text/event-stream")

        return app


@pytest.fixture
def standin(models) -> Iterator[tuple[StandIn, Running]]:
    made = StandIn(models.backbone, memory_template(models.backbone.process.processor.chat_template))
    running = Running(made.app())
    yield made, running
    running.close()


@pytest.fixture
def gateway(remembered, standin, monkeypatch) -> Iterator[Running]:
    monkeypatch.setenv("COMEM_UPSTREAM_KEY", "sk-up")
    running = Running(build_app(remembered, ServeSettings(TRIP, upstream=standin[1].url), Keys({})))
    yield running
    running.close()


@pytest.mark.parametrize("layout", ["prefix", "in_turn"])
def test_what_arrives_is_our_own_assembly(remembered, towns, models, standin, gateway, layout) -> None:
    """Bytes of the memories, their order, every id and position, and the answer."""
    remembered._table.note({"injection": layout})
    image, earlier = image_of(towns[1], view=1), ("Be brief.", "Hello.", "Hello!")
    body = chat(towns[1], max_tokens=4, memory={"k": 3})
    roles = ("system", "user", "assistant")
    body["messages"] = [
        *({"role": role, "content": text} for role, text in zip(roles, earlier, strict=True)),
        *body["messages"],
    ]
    answer = gateway.http.post("/v1/chat/completions", json=body).json()
    (seen,) = standin[0].seen
    assert seen["model"] == "served/model" and seen["_key"] == "Bearer sk-up" and "memory" not in seen
    assert seen["max_tokens"] == 4 and answer["model"] == "toy"

    turns = tuple(Message(role, (text,)) for role, text in zip(roles, earlier, strict=True))
    ask = Ask(QUESTION, image, turns, mode="comem", k=3)
    (hits,) = remembered._retrieve([ask])
    own = remembered._bank([hits])
    assert [item["id"] for item in answer["comem"]["items"]] == [hit.found.id for hit in hits]
    inputs, tensors = standin[0].read(seen["messages"])
    kept = own.select([hit.found.id for hit in hits]).embeddings
    assert len(tensors) == 3 and all(tensor.dtype == torch.bfloat16 for tensor in tensors)
    assert torch.equal(torch.stack(tensors).float(), kept.float()), "bit for bit, in the order of the scores"
    assert answer["comem"]["context_tokens"] == sum(map(len, tensors)) == 24

    backbone = models.backbone
    plain = backbone.process([[*turns, Message("user", (image, QUESTION))]])
    injection = INJECTIONS[layout](backbone, None)
    room, positions, _ = injection.room(backbone.model, backbone.place(plain), [24])
    arrived = standin[0].spliced(inputs, tensors)
    assert torch.equal(arrived["input_ids"] == standin[0].mark_id, positions), "every position"
    rest = ~positions
    assert torch.equal(arrived["input_ids"][rest], room["input_ids"][rest]), "every other token"
    assert torch.equal(arrived["pixel_values"], plain["pixel_values"])
    if layout == "prefix":
        direct = remembered.ask_many([Ask(QUESTION, image, turns, mode="comem", k=3, max_tokens=4)])[0]
        assert answer["choices"][0]["message"]["content"] == direct.text == towns[1].value("stone")


def test_streams_modes_and_what_others_sent(remembered, towns, standin, gateway) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none")
    assert {model.id for model in client.models.list()} == {"toy", "toy/comem", "toy/rag", "toy/baseline"}
    pieces = list(client.chat.completions.create(model="toy", **chat(towns[0]), stream=True, max_tokens=4))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert (
        text == towns[0].value("stone") and pieces[-1].model_extra["comem"]["items"][0]["id"] == towns[0].id
    )
    body = chat(towns[0], max_tokens=4, tools=[{"type": "function"}], logprobs=True, n=1)
    body["messages"][0]["content"][1]["text"] = "What <|im_end|> <prompt_embeds> of?"
    answer = gateway.http.post("/v1/chat/completions", json={**body, "model": "toy/rag"}).json()
    seen = standin[0].seen[-1]
    assert seen["tools"] and seen["logprobs"] is True and answer["comem"]["mode"] == "rag"
    texts = [part["text"] for turn in seen["messages"] for part in turn["content"] if part["type"] == "text"]
    assert texts[0].startswith(towns[0].name) and "<|" not in str(texts) and "<prompt" not in str(texts)
    gateway.http.post("/v1/chat/completions", json=chat(towns[0], model="toy/baseline", max_tokens=2))
    assert "prompt_embeds" not in str(standin[0].seen[-1]) and len(standin[0].seen[-1]["messages"]) == 1
    refused = gateway.http.post("/v1/chat/completions", json=chat(towns[0], model="toy/vlm_as_memory"))
    assert refused.status_code == 404
    asked = {"a": {"type": "noul", "instructions": "Is it?"}}
    decided = gateway.http.post("/v1/systemone", json={"state": "x", "questions": asked})
    assert decided.status_code == 400 and "--upstream" in decided.json()["error"]["message"]


def test_an_upstream_that_refuses_or_is_not_there(remembered, towns, standin, gateway) -> None:
    standin[0].status = 400
    refused = gateway.http.post("/v1/chat/completions", json=chat(towns[0]))
    assert refused.status_code == 400 and "not enabled" in refused.json()["error"]["message"]
    standin[0].status = 401
    assert gateway.http.post("/v1/chat/completions", json=chat(towns[0])).status_code == 502
    streamed = gateway.http.post("/v1/chat/completions", json=chat(towns[0], stream=True))
    assert streamed.status_code == 502
    standin[1].close()
    gone = gateway.http.post("/v1/chat/completions", json=chat(towns[0]))
    assert gone.status_code == 502 and set(gone.json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(ValueError, match="URL of a server"):
        ServeSettings(TRIP, upstream="localhost:8000")


def test_the_reader_is_not_loaded(remembered, towns, tmp_path) -> None:
    remembered.close()
    with comem.Memory(tmp_path / "memory") as memory:
        memory.warm_up(reader=False)
        items, memories = memory.found(Ask(QUESTION, image_of(towns[0], view=1)))
        assert items[0].id == towns[0].id and len(memories) == 3 and memory.models.layout(memory.about())
        assert not {"backbone", "encoder"} & vars(memory.models).keys()


def test_a_part_holds_its_own_rows_only() -> None:
    whole = torch.arange(4096 * 64, dtype=torch.float32).reshape(4096, 64)
    part = embeds_part(whole[8:16])
    assert torch.equal(tensor_of(part["data"]), whole[8:16]) and len(part["data"]) < 8_000


def test_the_template_is_written(tmp_path, models, monkeypatch, capsys) -> None:
    serve(ServeSettings(tmp_path / "new", template=tmp_path / "memory.jinja"))
    text = (tmp_path / "memory.jinja").read_text()
    assert text == memory_template(models.backbone.process.processor.chat_template)
    assert "--enable-prompt-embeds" in capsys.readouterr().out
