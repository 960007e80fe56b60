"""Times as players write them."""


def clock(seconds: float) -> str:
    """Return a time as players write it.

    >>> [clock(seconds) for seconds in (0, 65, 66.5, 3_725)]
    ['0:00', '1:05', '1:06.5', '1:02:05']
    """
    tenths = round(seconds * 10)
    whole, rest = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    told = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{told}.{rest}" if rest else told
