"""Use the API's documentation at /docs like a developer, in a headless Chromium.

Needs selenium (tests/requirements.txt) and Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as until
from selenium.webdriver.support.ui import WebDriverWait

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPERATION = "#operations-flight-delays-getFlightDelaysItem"
ANSWER = f"{OPERATION} .live-responses-table"
PATIENCE = 20  # seconds that an element of the page can take


@contextmanager
def open_browser(profile: Path, height: int = 1600) -> Iterator[webdriver.Chrome]:
    """Open a headless Chromium with a profile of its own until the block ends."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or "chromium"
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--window-size=1280,{height}", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER or "chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def request_item(browser: webdriver.Chrome, url: str, token: str, prediction_id: str) -> WebElement:
    """Open /docs, authorize, and send a GET for a flight's item; return the table with the response.

    Args:
        browser: see `open_browser`.
        url: URL of the server, without a path.
        token: token of the airline.
        prediction_id: name of one of its flights.

    Raises:
        selenium.common.TimeoutException: an element of the page does not appear.
    """
    wait = WebDriverWait(browser, PATIENCE)

    def press(css: str) -> None:
        found = wait.until(until.element_to_be_clickable((By.CSS_SELECTOR, css)))
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    browser.get(f"{url}/docs/")
    press("button.authorize")
    field = wait.until(until.visibility_of_element_located((By.CSS_SELECTOR, ".auth-container input")))
    field.send_keys(token)
    press(".auth-btn-wrapper button.authorize")
    press(".auth-btn-wrapper button.btn-done")
    press(f"{OPERATION} .opblock-summary-control")
    field_css = f"{OPERATION} tr[data-param-name=prediction_id] input"
    name = wait.until(until.visibility_of_element_located((By.CSS_SELECTOR, field_css)))
    name.clear()
    name.send_keys(prediction_id)
    press(f"{OPERATION} button.execute")
    return wait.until(until.visibility_of_element_located((By.CSS_SELECTOR, ANSWER)))
