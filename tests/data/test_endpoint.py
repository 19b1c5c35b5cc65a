"""The client of chat endpoints against a local server that fails, stalls, limits the rate, talks rubbish."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from comem.data.endpoint import MAX_FAILURES, Endpoint, EndpointError, EndpointSettings
from tests.data.standin import StandIn, serving


def settings(standin: StandIn, **changes: Any) -> EndpointSettings:
    quick = {"concurrency": 4, "timeout": 20.0, "retries": 2, "backoff": 0.01}
    return EndpointSettings(standin.url, "m", **{**quick, **changes})  # type: ignore[arg-type]


def prompts(count: int) -> list[tuple[str, str]]:
    return [(str(n), f"number {n}") for n in range(count)]


def echo() -> dict[str, str]:
    return {"number": "said"}


@pytest.mark.parametrize("trouble", ["500", "stall", "drip", "429", "rubbish", "cut"])
def test_what_passes_is_tried_again(trouble: str) -> None:
    with serving(StandIn({2: trouble}, sayings=echo(), stall=2.5)) as standin:
        endpoint = Endpoint(settings(standin, timeout=1.0 if trouble in ("stall", "drip") else 20.0))
        assert dict(endpoint.replies(prompts(3))) == {"0": "said", "1": "said", "2": "said"}
        assert sum(standin.asked.values()) == 4 and sum(endpoint.reasons.values()) == 1
    (reason,) = endpoint.reasons
    named = {"500": "status 500", "429": "status 429", "rubbish": "no chat completion"}
    named |= dict.fromkeys(("stall", "drip"), "timeout")
    assert reason.startswith(named.get(trouble, "no "))


def test_a_reply_without_end_is_none() -> None:
    with serving(StandIn(sayings={"number": "x" * (1 << 21)})) as standin:
        endpoint = Endpoint(settings(standin, retries=0))
        assert dict(endpoint.replies(prompts(1))) == {"0": None}
    assert endpoint.reasons == {"no answer (more than 1048576 bytes)": 1}


def test_without_the_package_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'comem\[endpoints\]'"):
        Endpoint(EndpointSettings("http://x", "m"))


def test_no_key_of_the_environment_goes_to_an_endpoint_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(StandIn(sayings=echo())) as standin:
        list(Endpoint(settings(standin)).replies(prompts(1)))
    assert standin.keys == {""}


def test_a_rate_limit_holds_everyone_back() -> None:
    with serving(StandIn({1: "429"}, sayings=echo())) as standin:
        assert len(dict(Endpoint(settings(standin, concurrency=1)).replies(prompts(2)))) == 2
    assert standin.times[1] - standin.times[0] >= 0.3


def test_no_more_at_once_than_allowed() -> None:
    with serving(StandIn(sayings=echo(), pause=0.1)) as standin:
        assert len(list(Endpoint(settings(standin, concurrency=3)).replies(prompts(12)))) == 12
    assert 1 < standin.most_at_once <= 3


def test_what_fails_for_good_is_none_and_the_rest_comes() -> None:
    with serving(StandIn(dict.fromkeys((1, 2, 3), "500"), sayings=echo())) as standin:
        said = dict(Endpoint(settings(standin, concurrency=1)).replies(prompts(3)))
    assert said == {"0": None, "1": "said", "2": "said"}


def test_a_refusal_stops_at_once_and_keeps_what_came() -> None:
    came: list[Any] = []
    with serving(StandIn({2: "401"}, sayings=echo())) as standin:
        with pytest.raises(EndpointError, match=r"answers 401 \(<html>not here\); check --endpoint"):
            came.extend(Endpoint(settings(standin, concurrency=1)).replies(prompts(50)))
        assert sum(standin.asked.values()) <= 3
    with serving(StandIn({2: "401"}, sayings=echo())) as standin:
        replies = Endpoint(settings(standin, concurrency=1)).replies(prompts(50))
        assert next(replies)[1] == "said"


def test_a_redirection_is_refused_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    with serving(StandIn({1: "302"}, sayings=echo())) as standin:
        with pytest.raises(EndpointError, match="answers 302"):
            list(Endpoint(settings(standin, key_variable="A_KEY")).replies(prompts(1)))
        assert len(standin.times) == 1


def test_a_host_that_is_down_or_wants_too_long_a_pause_is_left_alone() -> None:
    with serving(StandIn()) as standin:
        pass
    quick = settings(standin, retries=0, concurrency=1)
    with pytest.raises(EndpointError, match=f"no answer to {MAX_FAILURES} requests in a row"):
        list(Endpoint(quick).replies(prompts(40)))
    too_long = pytest.raises(EndpointError, match="asks to wait 0 s; run the same command again")
    with serving(StandIn({1: "429"}, sayings=echo())) as standin, too_long:
        list(Endpoint(settings(standin, max_wait=0.1)).replies(prompts(1)))


def test_stopping_early_sends_nothing_more() -> None:
    with serving(StandIn(sayings=echo())) as standin:
        replies = Endpoint(settings(standin, concurrency=1)).replies(prompts(200))
        next(replies)
        replies.close()  # type: ignore[attr-defined]
        sent = sum(standin.asked.values())
        time.sleep(0.05)
        assert sum(standin.asked.values()) == sent < 100


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    with serving(StandIn(sayings=echo())) as standin:
        endpoint = Endpoint(settings(standin, key_variable="A_KEY"))
        list(endpoint.replies(prompts(1)))
    assert standin.keys == {"Bearer secret"} and "secret" not in str(endpoint.about)
    monkeypatch.delenv("A_KEY")
    with pytest.raises(ValueError, match="A_KEY is not set"):
        Endpoint(settings(standin, key_variable="A_KEY"))


KEY = "sk-Abc+1/234567890xyz"


@pytest.mark.parametrize("trouble", ["401", "400", "500"])
def test_a_key_that_a_server_repeats_is_not_shown(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    shown = ""
    with serving(StandIn(troubles=dict.fromkeys(range(9), trouble), echoes=True)) as standin:
        endpoint = Endpoint(settings(standin, key_variable="A_KEY", retries=1, backoff=0.01))
        try:
            list(endpoint.replies(prompts(1)))
        except EndpointError as error:
            shown = str(error)
            assert "Bearer ***" in shown
    shown += f"{caplog.text} {endpoint.reasons} {endpoint.about}"
    assert all(KEY[:n] not in shown for n in range(5, len(KEY) + 1))


def test_a_key_in_a_reply_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    with serving(StandIn(sayings={"": f"your key is {KEY}, thanks"})) as standin:
        ((_, reply),) = list(Endpoint(settings(standin, key_variable="A_KEY")).replies(prompts(1)))
    assert reply == "your key is ***, thanks"


@pytest.mark.parametrize(
    "url", ["https://me:sk-123456@h.org/v1", "http://sk-123456@h.org", "https://h.org/v1?key=sk-123456",
            "https://h.org/v1?code=sk-123456", "https://h.org/v1#sk-123456", "me:sk-123456@h.org"],
)  # fmt: skip
def test_a_key_in_the_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="--api-key-env") as error:
        EndpointSettings(url, "m")
    assert "sk-123456" not in str(error.value) and "h.org" in str(error.value)


@pytest.mark.parametrize(
    ("url", "warned"), [("http://models.example/v1", True), ("http://10.0.0.7/v1", True),
                        ("http://localhost:8000/v1", False), ("http://127.0.0.1/v1", False),
                        ("http://127.evil.example/v1", True), ("http://[::1]:8000/v1", False),
                        ("https://models.example/v1", False)],
)  # fmt: skip
def test_a_key_without_encryption_is_warned_of(
    url: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    Endpoint(EndpointSettings(url, "m", key_variable="A_KEY"))
    assert ("unencrypted" in caplog.text) is warned
    caplog.clear()
    Endpoint(EndpointSettings(url, "m"))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "api.openai.com"}, "give its address, such as https"),
        ({"model": ""}, "name of a model"),
        ({"concurrency": 0}, "concurrency 0"),
        ({"timeout": 0}, "timeout 0"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointSettings(**{"url": "http://x", "model": "m", **changes})


def test_the_address_is_found_from_the_root_or_given_whole() -> None:
    for url in ("http://x/v1", "http://x/v1/", "http://x/v1/chat/completions"):
        assert EndpointSettings(url, "m").address == "http://x/v1/chat/completions"
