"""Banners: seeded, described, and their siblings."""

from __future__ import annotations

import random

from tools.toy.clip_banners import change, random_banner
from tools.toy.clip_images import draw_banner


def test_banners_follow_their_seed_and_their_changes() -> None:
    first, again = (draw_banner(random_banner(random.Random(5))) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    rng, seen = random.Random(0), set()
    for _ in range(200):
        banner = random_banner(rng)
        sibling = change(banner, rng)
        assert sibling != banner
        seen.add(banner.layout)
        assert banner.caption().startswith(banner.layout)
        assert draw_banner(sibling, 48).width == 48
    assert len(seen) == 11
