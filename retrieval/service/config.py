"""What the service allows, and how it behaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from encoders.media import Limits


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Everything that can be set; the defaults suit one machine and clients that are not known to be friendly."""

    host: str = "127.0.0.1"  # where to listen; anything else is heard by other machines
    port: int = 8000
    body_bytes: int = 64 * 2**20  # of one request
    body_seconds: float = 20.0  # until a whole request must have come
    request_seconds: float = 60.0  # until it is answered, or refused with 503
    items: int = 256  # in one request
    requests_at_once: int = 96  # more are refused with 429
    items_at_once: int = 1024  # of all requests that are being worked on
    batch_seconds: float = 60.0  # of one forward pass; then its worker counts as stuck and is started anew
    cache_bytes: int = 64 * 2**20  # of vectors that are kept for inputs that come again; 0: none
    remote: tuple[str, ...] = ()  # hosts from which media may be fetched over https; empty: none
    remote_seconds: float = 10.0  # of one fetch
    remote_bytes: int = 32 * 2**20
    media: Limits = field(
        default_factory=lambda: Limits(
            max_bytes=32 * 2**20, max_pixels=50_000_000, max_seconds=600.0, max_characters=100_000
        )
    )

    def __post_init__(self) -> None:
        positive = ("body_bytes", "body_seconds", "request_seconds", "items", "requests_at_once", "items_at_once")
        for name in (*positive, "batch_seconds", "remote_seconds", "remote_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"service.{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.port < 65_536:
            raise ValueError(f"service.port must be from 0 to 65535, got {self.port}")
        if self.cache_bytes < 0:
            raise ValueError(f"service.cache_bytes must not be negative, got {self.cache_bytes}")
