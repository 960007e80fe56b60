"""Videos, documents and long sounds over HTTP: pictures of their parts, and the files in ranges of bytes."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import PIL.Image
import pytest
from film_store import NAMES, picture
from running_service import Running

from retrieval.gallery import GALLERY
from retrieval.service import files
from retrieval.service.security import TICKET_SECONDS, Tickets

FRAME = "films/a clip.mp4#t=2.0"
HEARD = "films/a clip.mp4#t=0.0&track=audio"
PAGE = "films/deck.pdf#page=3"
WINDOW = "films/rain.wav#t=10.0"


@pytest.fixture
def store(film_service: Running) -> Path:
    return film_service.service.indexes.all["films"].store.folder


@pytest.fixture
def client(film_http: httpx.Client) -> httpx.Client:
    return film_http


def media(item: str) -> str:
    return f"/v1/media/films/{quote(item)}"


def difference(content: bytes, name: str) -> float:
    shown = PIL.Image.open(io.BytesIO(content))
    wanted = picture(name).resize(shown.size)
    return float(np.abs(np.asarray(shown, float) - np.asarray(wanted, float)).mean())


def test_hits_say_their_places_and_their_pictures_are_the_frame_and_the_page(client: httpx.Client) -> None:
    asked = {"query": "a violin", "top_k": 20, "where": "modality=image"}
    hits = {hit["id"]: hit for hit in client.post("/v1/search", json=asked).json()["hits"]}
    assert (hits[FRAME]["place"], hits[PAGE]["place"]) == ("0:02 to 0:03", "page 3")
    assert hits[PAGE]["metadata"] == {"page": 3}
    for item, name in ((FRAME, NAMES[1]), (PAGE, NAMES[2])):
        answer = client.get(media(item) + "?size=200")
        assert answer.headers["content-type"] == "image/jpeg"
        assert max(PIL.Image.open(io.BytesIO(answer.content)).size) == 200
        assert difference(answer.content, name) < 12 < difference(answer.content, NAMES[0])


def test_a_player_reads_the_file_in_ranges(client: httpx.Client, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (store.parent / "films" / "a clip.mp4").read_bytes()
    size = len(content)
    whole = client.get(media(HEARD))
    assert (whole.status_code, whole.headers["content-type"], whole.content) == (200, "video/mp4", content)
    assert whole.headers["accept-ranges"] == "bytes"
    monkeypatch.setattr(files, "LARGEST_RANGE", 1_000)
    for asked, first, last in (("0-", 0, 999), ("5-9", 5, 9), ("-7", size - 7, size - 1), (f"{size - 3}-", -3, -1)):
        part = client.get(media(FRAME) + "?file=true", headers={"Range": f"bytes={asked}"})
        first, last = first % size, last % size
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.content == content[first : last + 1]
    tag = whole.headers["etag"]
    for told, status in ((tag, 206), ('"another"', 200)):  # the file may be another since the player began
        assert client.get(media(HEARD), headers={"Range": "bytes=0-9", "If-Range": told}).status_code == status
    beyond = client.get(media(HEARD), headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for odd in ("bytes=-", "bytes=x-2", "lines=1-2"):
        assert client.get(media(HEARD), headers={"Range": odd}).status_code in (200, 400)


@pytest.mark.parametrize(
    ("item", "kind", "name"),
    [
        (FRAME, "video/mp4", "a clip.mp4"),
        (HEARD, "video/mp4", "a clip.mp4"),
        (PAGE, "application/pdf", "deck.pdf"),
        (WINDOW, "audio/wav", "rain.wav"),
    ],
)
def test_an_address_opens_one_file_without_a_key(
    client: httpx.Client, store: Path, item: str, kind: str, name: str
) -> None:
    told = client.get(f"/v1/address/films/{quote(item)}").json()
    assert told["type"] == kind
    with httpx.Client(base_url=client.base_url) as stranger:
        opened = stranger.get(told["address"])
        assert (opened.status_code, opened.headers["content-type"]) == (200, kind)
        assert opened.content == (store.parent / "films" / name).read_bytes()
        assert stranger.get(media(item)).status_code == 401
        assert stranger.get(f"/v1/address/films/{quote(item)}").status_code == 401
        _, _, question = told["address"].partition("?")
        other = FRAME if item == PAGE else PAGE
        assert stranger.get(f"{media(other)}?{question}").status_code == 401
        assert stranger.get(told["address"][:-1] + "g").status_code == 401
        assert stranger.delete(told["address"].replace("/v1/media", "/v1/items")).status_code == 401


def test_a_sound_without_a_name_is_known_by_its_content() -> None:
    content = (GALLERY / "sounds/rain-falling-steadily.ogg").read_bytes()
    for asked, status, part in (({}, 200, content), ({"range": "bytes=3-8"}, 206, content[3:9])):
        told = files.file_response(io.BytesIO(content), files.file_type("data.arrow#3:audio"), asked, {})
        assert (told.media_type, told.status_code, told.body) == ("audio/ogg", status, part)


def test_a_ticket_ends() -> None:
    now = [1_000.0]
    tickets = Tickets(lambda: now[0])
    ticket = tickets.issue("/v1/media/a")
    now[0] += TICKET_SECONDS - 1
    assert tickets.opens("/v1/media/a", ticket)
    now[0] += 1
    assert not tickets.opens("/v1/media/a", ticket)
    for wrong in ("", ".", "9.", "9" * 13 + ".a", "²." + ticket[5:], ticket + "0", "é.é"):
        assert not tickets.opens("/v1/media/a", wrong)


def test_what_cannot_be_shown_or_added_is_said(client: httpx.Client, store: Path) -> None:
    refused = client.post("/v1/items/upload", files={"files": ("film.mp4", b"\0\0\0\x20ftypisom")})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        "files[0] must be a named picture or sound: `onepeace index add` takes videos and PDFs"
    )
    deck = store.parent / "films" / "deck.pdf"
    deck.rename(store.parent / "deck.pdf")
    try:
        assert client.get(media(PAGE)).status_code == 404
        assert client.get(media(PAGE) + "?file=true").status_code == 404
    finally:
        (store.parent / "deck.pdf").rename(deck)
