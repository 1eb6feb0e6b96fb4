"""A developer opens /docs, authorises with a token, sends a GET and sees the body, in a headless Chromium.

It needs Debian's packages chromium and chromium-driver; with LARDER_BROWSER=1 their absence is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

from tests.contract.serve.conftest import Laptop
from tests.unit.serve.kit import sign

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and not os.environ.get("LARDER_BROWSER"),
    reason="needs Debian's chromium and chromium-driver",
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or "chromium"
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1600",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER or "chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def test_a_developer_can_try_the_api(laptop: Laptop, browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Open, authorise, send, see; and no script of another host is asked for."""
    wait = WebDriverWait(browser, 20)

    def press(css: str) -> None:
        found = wait.until(until.element_to_be_clickable((By.CSS_SELECTOR, css)))
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    browser.get(f"{laptop.url}/docs/")
    press("button.authorize")
    shown_methods = {found.text for found in browser.find_elements(By.CSS_SELECTOR, ".opblock-summary-method")}
    assert shown_methods == {"GET"}
    field = wait.until(until.visibility_of_element_located((By.CSS_SELECTOR, ".auth-container input")))
    field.send_keys(sign())
    press(".auth-btn-wrapper button.authorize")
    press(".auth-btn-wrapper button.btn-done")
    operation = "#operations-flight-delays-getFlightDelaysItem"
    press(f"{operation} .opblock-summary-control")
    field_css = f"{operation} tr[data-param-name=prediction_id] input"
    name = wait.until(until.visibility_of_element_located((By.CSS_SELECTOR, field_css)))
    name.clear()
    name.send_keys("2024-01-02.JFK.B6123")
    press(f"{operation} button.execute")
    answer = f"{operation} .live-responses-table"
    wait.until(until.text_to_be_present_in_element((By.CSS_SELECTOR, answer), "JetBlue Airways"))
    shown = browser.find_element(By.CSS_SELECTOR, answer)
    assert "200" in shown.text
    assert '"late_probability": 0.183' in shown.text
    browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", shown)
    browser.save_screenshot(str(Path(os.environ.get("LARDER_SCREENSHOTS", tmp_path)) / "docs.png"))
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    severe = [entry for entry in log if entry["level"] == "SEVERE"]
    assert severe == []
