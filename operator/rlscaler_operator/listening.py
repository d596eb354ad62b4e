"""The wire under the watches: a session to the API server that notices what goes over it.

kopf lists and watches; it tells neither when a list has been taken in as a whole, nor whether a silent watch is alive,
nor which objects went while nobody watched (a list after a 410 simply lacks them). All of it can be seen in the
requests and answers, so each collection has a `Listing` that a middleware of the session keeps up to date.
"""

import asyncio
import json
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

import aiohttp
from kubernetes import client

log = logging.getLogger("rlscaler.watching")


class Kind(NamedTuple):
    """A kind of object that is watched."""

    group: str
    version: str
    plural: str
    kind: str

    def __str__(self) -> str:
        """Return it as kubectl takes it: deployments.apps."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None) -> str:
        """Return the path of all objects of the kind, in one namespace or in all."""
        root = f"/apis/{self.group}" if self.group else "/api"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}/{self.version}{within}/{self.plural}"


class Listing:
    """What is heard of one collection of objects. Times are monotonic.

    listed: whether every object of a list has been taken in. heard_at: when the server last sent anything, NaN before.
    refused: why it may not be read, "" where it may; refused_at: when that was last said, NaN before.
    """

    def __init__(
        self,
        kind: Kind,
        namespace: str | None,
        kept: Callable[[Collection[str], int], None],
        settled: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is watched; nothing has been heard yet.

        kept: called with the uids of a list and its version once every object on it has been taken in. settled: called
        when `listed` or `refused` is set.
        """
        self.kind, self.namespace = kind, namespace
        self.name = f"{kind} in {namespace}" if namespace else str(kind)
        self.listed = False
        self.heard_at = math.nan
        self.refused, self.refused_at = "", math.nan
        self._kept, self._settled, self._monotonic = kept, settled, monotonic
        self._uids: set[str] = set()
        self._awaited: set[str] = set()
        self._version = -1
        self._whole = False

    def heard(self) -> None:
        """Note that the server has sent something."""
        self.heard_at = self._monotonic()
        self.refused = ""

    def refuse(self, why: str) -> None:
        """Note that the server does not let us read."""
        self.refused, self.refused_at = why, self._monotonic()
        self._settled()

    def page(self, uids: Iterable[str], version: str, first: bool, last: bool) -> None:
        """Note a part of a list that the server has sent; its objects are on their way."""
        self.heard()
        if first:
            self._uids, self._awaited = set(), set()
        new = set(uids)
        self._uids |= new
        self._awaited |= new
        self._version = int(version) if version.isdecimal() else -1
        self._whole = last
        self._complete()

    def took(self, uid: str) -> None:
        """Note that an object of a list has been taken in."""
        self._awaited.discard(uid)
        self._complete()

    def _complete(self) -> None:
        if self._whole and not self._awaited:
            self._whole = False
            uids, self._uids = self._uids, set()
            self._kept(uids, self._version)
            self.listed = True
            self._settled()


class Session:
    """Makes sessions that say who we are with every request, and tell the listings what comes back.

    unauthorized: whether the server has refused our credentials since that was last set to False.
    """

    def __init__(self, listings: Iterable[Listing]) -> None:
        """Take what is watched."""
        self.unauthorized = False
        self._listings = {listing.kind.path(listing.namespace): listing for listing in listings}
        self._failing: dict[str, float] = {}
        self._open: list[aiohttp.ClientSession] = []

    async def open(self, settings: client.Configuration) -> aiohttp.ClientSession:
        """Return a session with the credentials and the TLS of the `kubernetes` package's settings."""
        context = await asyncio.to_thread(_tls, settings)

        async def through(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            # In a thread: a token file is read anew each minute, and a kubeconfig may run a program for it.
            told: Mapping[str, Any] = await asyncio.to_thread(cast(Any, settings).auth_settings)
            for setting in told.values():
                request.headers[setting["key"]] = setting["value"]
            listing = self._listings.get(request.url.path)
            try:
                if session.closed:
                    raise aiohttp.ClientConnectionError
                response = await (handler(request) if listing is None else self._listen(listing, request, handler))
            except (aiohttp.ClientError, OSError) as error:
                if session.closed:
                    # Another request was refused meanwhile, and a login replaced the session: kopf takes the new one.
                    raise RuntimeError("Session is closed") from error
                if listing is not None:
                    self._failed(listing, " ".join(str(error).split()) or type(error).__name__)
                raise
            self.unauthorized |= response.status == 401
            return response

        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            middlewares=(through,),
            proxy=settings.proxy or None,
            headers={"User-Agent": "rlscaler"},
        )
        self._open = [each for each in self._open if not each.closed] + [session]
        return session

    async def close(self) -> None:
        """Close every session."""
        while self._open:
            await self._open.pop().close()

    async def _listen(
        self, listing: Listing, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        query = request.url.query
        response = await handler(request)
        if response.status >= 400:
            await self._refused(listing, response)
            return response
        if query.get("watch") == "true":
            listing.heard()
            response.content = cast(aiohttp.StreamReader, _Heard(response.content, listing.heard))
        else:
            _read_page(listing, await response.read(), first="continue" not in query)
        self._succeeded(listing)
        return response

    async def _refused(self, listing: Listing, response: aiohttp.ClientResponse) -> None:
        """Take in an answer that is an error."""
        if response.status in (401, 410):
            return  # both are answered at once, by a login and by a new list
        why = f"HTTP status {response.status}"
        try:
            answer = json.loads(await response.read())
            why = str(answer.get("message") or why) if isinstance(answer, dict) else why
        except ValueError:
            pass  # not the API server's own answer, but that of a proxy
        if response.status == 403:
            listing.refuse(why)
            where = f"in namespace {listing.namespace}" if listing.namespace else "in the whole cluster"
            why += f"; grant the operator's service account the verbs list and watch on {listing.kind} {where}"
        self._failed(listing, why)

    def _failed(self, listing: Listing, why: str) -> None:
        """Say once, not at each attempt, that a collection cannot be watched."""
        if listing.name not in self._failing:
            log.warning("cannot watch %s: %s; trying again", listing.name, why)
            self._failing[listing.name] = time.monotonic()

    def _succeeded(self, listing: Listing) -> None:
        since = self._failing.pop(listing.name, None)
        if since is not None:
            log.info("watching %s again, after %.0f s", listing.name, time.monotonic() - since)


class _Heard:
    """The content of an answer, and an ear on it."""

    def __init__(self, content: aiohttp.StreamReader, heard: Callable[[], None]) -> None:
        self._content, self._heard = content, heard

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        async for chunk in self._content.iter_chunked(size):
            self._heard()
            yield chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


def _read_page(listing: Listing, data: bytes, first: bool) -> None:
    try:
        answer = json.loads(data)
        metadata, items = answer["metadata"], answer.get("items") or ()
        uids = [item["metadata"]["uid"] for item in items]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise aiohttp.ClientPayloadError("the answer is no list of objects") from None
    listing.page(uids, str(metadata.get("resourceVersion", "")), first, not metadata.get("continue"))


def _tls(settings: client.Configuration) -> ssl.SSLContext | bool:
    if not str(settings.host).startswith("https:"):
        return True
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert or None)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file or None)
    if settings.assert_hostname is False or not settings.verify_ssl:
        context.check_hostname = False
    if not settings.verify_ssl:
        context.verify_mode = ssl.CERT_NONE
    return context


def ages(listings: Iterable[Listing], now: float) -> Mapping[str, float]:
    """Return the seconds since each collection was last heard of, by name; without those not listed yet."""
    return {listing.name: now - listing.heard_at for listing in listings if listing.listed}
