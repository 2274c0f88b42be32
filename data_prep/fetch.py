"""Fetch public files that the project may not ship, once, and identify them by their SHA-256."""

from collections.abc import Sequence
from pathlib import Path

from marn.corpus.card import sha256
from marn.errors import MarnError


def fetch(url: str, name: str, remedy: str, sums: Sequence[str] = ()) -> tuple[Path, str]:
    """Fetch a file once and return its path and SHA-256.

    No publisher of these files states a SHA-256. So the first copy is accepted as it is, and its
    sum is recorded in the card of the corpus. To check a copy, pass the sum that it must have, for
    example from the card of another corpus.

    Args:
        url: address of the file.
        name: its name in the user's cache folder (``pooch.os_cache("marn")``); a copy in that
            folder is used without the network.
        remedy: what to do if it cannot be fetched.
        sums: SHA-256 sums, one of which the file must have; if empty, no sum is checked.

    Raises:
        MarnError: if the file cannot be fetched, or has another sum.
    """
    import pooch

    folder = Path(pooch.os_cache("marn"))
    path = folder / name
    try:
        if not path.is_file():
            pooch.retrieve(url, known_hash=None, fname=name, path=folder)
        found = sha256(path)
    except Exception as error:  # requests and the file system each have their own
        raise MarnError(f"{url} cannot be fetched; {remedy}") from error
    if sums and found not in {one.strip().lower() for one in sums}:
        raise MarnError(
            f"{path} has the SHA-256 {found}, which --sha256 does not name; remove the file to "
            "fetch it again, or give its sum"
        )
    return path, found
