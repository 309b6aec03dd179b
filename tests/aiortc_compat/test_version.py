"""Which releases of aiortc and aioice are taken."""

from __future__ import annotations

import pytest

from metered_realtime.aiortc_compat import version as releases
from metered_realtime.aiortc_compat.version import check_version


async def test_this_release_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    check_version()
    monkeypatch.setattr(releases, "version", lambda name: "1.17.0")
    with pytest.raises(ImportError, match=r"1\.17\.0"):
        check_version.__wrapped__()
