"""What `comem encode` and `comem bank build | info | verify | export | merge` print."""

from __future__ import annotations

from comem.bank.settings import (
    BankInfo,
    BankSettings,
    BuildCounts,
    EncodeSettings,
    StoreReport,
    VerifySettings,
)
from comem.io.console import print_facts, print_line, print_table

_SHOWN = 20  # items named


def show_encoded(counts: BuildCounts, settings: EncodeSettings) -> None:
    """Print what was done, and what lies in the bank now."""
    from comem.bank.upkeep import info

    shown = {**vars(counts), "faults": len(counts.faults)}
    print_facts([(name, f"{number:,}") for name, number in shown.items()])
    for item_id, fault in list(counts.faults.items())[:_SHOWN]:
        print_line(f"not stored: {item_id}: {fault}")
    show_info(info(BankSettings(settings.output)), settings)


def show_info(found: BankInfo, settings: object) -> None:
    """Print what lies in a bank."""
    size = f"{found.bytes / 2**20:,.1f} MiB, {found.bytes / max(1, found.items):,.0f} bytes an item"
    facts = [
        ("bank", str(found.path)),
        ("items", f"{found.items:,} of {found.queries} × {found.width}"),
        ("form", f"{found.form}, {found.stride:,} bytes an item"),
        ("on disk", size),
    ]
    if found.path.is_dir():
        replaced = found.entries - found.items
        facts.append(("replaced or removed", f"{replaced:,} (comem bank export leaves them behind)"))
    encoder = found.encoder
    low, high, longest = encoder.min_pixels, encoder.max_pixels, encoder.max_chars
    pixels = "not recorded" if low is None or high is None else f"{low:,} to {high:,} pixels"
    print_facts([
        *facts,
        ("encoder", encoder.fingerprint),
        ("prompt", repr(encoder.prompt) if encoder.prompt is not None else "not recorded"),
        ("image", pixels),
        ("passage", f"at most {longest:,} characters" if longest else "not recorded"),
    ])  # fmt: skip


def show_report(report: StoreReport, settings: VerifySettings) -> int:
    """Print what is damaged; 1 if anything is."""
    if report.damaged:
        rows = list(report.damaged.items())
        title = "damaged" if len(rows) <= _SHOWN else f"damaged, the first {_SHOWN} of {len(rows):,}"
        print_table(("item", "what is wrong"), rows[:_SHOWN], title)
    for line in report.faults:
        print_line(f"damaged: {line}")
    for line in report.unverified:
        print_line(f"not verified: {line}")
    print_facts([
        ("items", f"{report.items:,}"),
        ("damaged", f"{len(report.damaged):,}"),
        ("without a readable id", f"{report.nameless:,}"),
        ("verdict", "good" if report.good else "damaged"),
    ])  # fmt: skip
    if not report.good and settings.drop_damaged:
        forgotten = len(report.damaged) + report.nameless
        print_line(f"{forgotten:,} items forgotten; comem bank build encodes them again")
    return 0 if report.good else 1
