"""Which addresses are fetched from: those of the public network, checked after the name was looked up."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PrivateAddressError(OSError):
    """A host in a private network, on this machine, or nowhere: a corpus must not make us ask it."""


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public network, whatever form it is wrapped in."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    return all(
        each.is_global and not each.is_multicast and not each.is_reserved and not _site_local(each)
        for each in (_inner(address) or [address])
    )


def _inner(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 address stands for (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if int(address) >> 32 == 0 and int(address) > 1:  # ::a.b.c.d, out of use
        found.append(ipaddress.IPv4Address(int(address)))
    return [each for each in found if each is not None]


def _site_local(address: Address) -> bool:
    return isinstance(address, ipaddress.IPv6Address) and address.is_site_local


def check_literal(host: str) -> None:
    """Refuse a host that is written as an address which is not public; names are looked at when resolved.

    Raises:
        PrivateAddressError: it is private.
    """
    try:
        ipaddress.ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return
    if not is_public(host):
        raise PrivateAddressError(_refused(host, host))


class PublicResolver:
    """aiohttp's resolver, but of public addresses only: the connection goes to what was checked here."""

    def __init__(self) -> None:
        from aiohttp.resolver import ThreadedResolver

        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[Any]:
        """As aiohttp's, without the addresses that are not public.

        Raises:
            PrivateAddressError: the name has no other ones.
        """
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if is_public(each["host"])]
        if found and not public:
            raise PrivateAddressError(_refused(host, found[0]["host"]))
        return public

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._resolver.close()


def _refused(host: str, address: str) -> str:
    named = host if host == address else f"{host} is {address}, which"
    return f"{named} is no address of the public network; --allow-private fetches from it all the same"
