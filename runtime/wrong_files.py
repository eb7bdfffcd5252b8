"""What comes in place of a file that was downloaded or copied."""


def what_came(start: bytes) -> str | None:
    """What a file is that came in place of the one that was wanted, and what to do.

    Args:
        start: its first 64 bytes or more; all of them if it has fewer.

    Returns:
        words that follow "it is ", without a period at the end; None for anything else.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "an empty file: copy it again"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and not the file itself: run `git lfs pull` where it is from"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page and not the file that it offers: download the file itself"
    return None
