"""A developer opens /docs, authorises with a token, sends a GET and sees the body, in a headless Chromium.

It needs Debian's packages chromium and chromium-driver; with LARDER_BROWSER=1 their absence is a failure.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

from examples.flights.docs_page import ANSWER, BROWSER, DRIVER, PATIENCE, open_browser, request_item
from tests.contract.serve.conftest import Laptop
from tests.unit.serve.kit import sign

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and not os.environ.get("LARDER_BROWSER"),
    reason="needs Debian's chromium and chromium-driver",
)


@pytest.mark.long
def test_a_developer_can_try_the_api(laptop: Laptop, tmp_path: Path) -> None:
    """Open, authorise, send, see the body; no script of another host is requested."""
    with open_browser(tmp_path / "profile") as browser:
        shown = request_item(browser, laptop.url, sign(), "2024-01-02.JFK.B6123")
        shown_methods = {found.text for found in browser.find_elements(By.CSS_SELECTOR, ".opblock-summary-method")}
        assert shown_methods == {"GET"}
        body = until.text_to_be_present_in_element((By.CSS_SELECTOR, ANSWER), "JetBlue Airways")
        WebDriverWait(browser, PATIENCE).until(body)
        assert "200" in shown.text
        assert '"late_probability": 0.183' in shown.text
        log = browser.get_log("browser")  # type: ignore[no-untyped-call]
        severe = [entry for entry in log if entry["level"] == "SEVERE"]
        assert severe == []
