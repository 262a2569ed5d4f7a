"""The figures of the page, taken by a headless browser: `python docs/site/page_figures.py datasets/photographs/kodak`.

Needs a Chromium on the PATH, and Playwright. `--look FOLDER` takes every view on a desktop and a phone, light and dark, to be
looked at.
"""

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyiqa_rali.app.albums import Albums, Limits
from pyiqa_rali.app.metrics import PageMetrics, choices
from pyiqa_rali.app.server import Address, launch
from pyiqa_rali.data.distortions import DISTORTIONS

FIGURES = Path(__file__).parents[1] / 'figures'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
# file of the set, name on the page, distortion and its parameter
PICTURES = (('23.png', 'parrots.jpg', 'jpeg', 9), ('20.png', 'plane.jpg', '', 0), ('15.png', 'child.png', '', 0),
            ('5.png', 'riders.png', 'white_noise', 28), ('7.png', 'flowers.jpg', 'gaussian_blur', 2.6),
            ('3.png', 'hats.jpg', 'overexpose', -2.2), ('12.png', 'beach.jpg', 'resample', 3.5),
            ('21.png', 'lighthouse.jpg', '', 0))
OPENED = 'parrots.jpg'
SIZES = {'desktop': (1360, 960), 'phone': (390, 844)}


def write_pictures(source: Path, folder: Path) -> None:
    """Write the pictures of the gallery, and one that cannot be read."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file, name, kind, parameter in PICTURES:
        pixels = np.asarray(Image.open(source / file).convert('RGB'))
        if kind:
            changed = DISTORTIONS[kind].apply(pixels.astype(np.float32), parameter, rng)
            pixels = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=93)
    stream = io.BytesIO()
    Image.open(source / PICTURES[0][0]).save(stream, 'JPEG')
    (folder / 'broken.jpg').write_bytes(stream.getvalue()[:9000])


@contextmanager
def served() -> Iterator[str]:
    """Yield the address of a page."""
    server, url = launch(PageMetrics(choices([], None), 'cpu'), Albums(Limits()), Address(port=0))
    try:
        yield url
    finally:
        server.get_blocks().close(verbose=False)


class View:
    """The page in a browser, with the pictures scored.

    Args:
        chromium: a running browser.
        url: of the page.
        folder: of pictures.
        size: width and height in pixels.
        dark: the system's colours.
    """

    def __init__(self, chromium: Any, url: str, folder: Path, size: tuple[int, int], dark: bool):
        self.context = chromium.new_context(viewport={'width': size[0], 'height': size[1]},
                                            color_scheme='dark' if dark else 'light', device_scale_factor=1)
        self.page = self.context.new_page()
        self.page.set_default_timeout(180_000)
        self.page.goto(url)
        self.page.wait_for_selector('#limits:not(:empty)')
        self.page.set_input_files('#folder', folder)
        self.until(f"document.querySelectorAll('.card').length === {len(PICTURES)} && "
                   "document.getElementById('working').hidden && !document.querySelector('.card.waiting')")

    def until(self, expression: str, seconds: float = 180) -> None:
        """Wait until an expression of JavaScript holds.

        Raises:
            TimeoutError: it does not.
        """
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.1)

    def gallery(self) -> None:
        """Show the gallery."""

    def why(self) -> None:
        """Open a picture, with its map."""
        self.page.locator('.card', has_text=OPENED).locator('.open').click()
        self.page.click('#map-button')
        self.until("!document.getElementById('map').hidden && document.getElementById('map').naturalWidth > 0")

    def distort(self) -> None:
        """Move a slider and wait for its curve."""
        if not self.page.locator('#detail').is_visible():
            self.why()
        self.page.click('#tab-distort')
        self.page.locator('#slider-jpeg').fill('30')
        self.until("document.querySelectorAll('#curve circle.point').length >= 9")

    def versus(self) -> None:
        """Put two pictures side by side."""
        if self.page.locator('#detail').is_visible():
            self.page.click('#close-detail')
        for name in (OPENED, 'plane.jpg'):
            self.page.locator('.card', has_text=name).locator('.pick input').check()
        self.page.click('#compare')
        self.until("/better by/.test(document.getElementById('versus-summary').textContent)")

    def shot(self, path: Path, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as JPEG or PNG."""
        self.page.mouse.move(0, 0)
        time.sleep(0.5)  # pictures fade in
        content = self.page.screenshot(full_page=whole)
        Image.open(io.BytesIO(content)).convert('RGB').save(path, quality=88)


def main() -> None:
    """Take the figures of the documentation, or every view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('photographs', type=Path, help='the 24 photographs of the Kodak set, named 1.png to 24.png')
    parser.add_argument('--look', type=Path, metavar='FOLDER', help='write every view there instead')
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as folder, served() as url, sync_playwright() as driver:
        pictures = Path(folder) / 'holiday'
        write_pictures(args.photographs, pictures)
        chromium = driver.chromium.launch(executable_path=program, args=['--no-sandbox'])
        if args.look is None:
            view = View(chromium, url, pictures, SIZES['desktop'], False)
            view.shot(FIGURES / 'app.jpg', whole=True)
            view.why()
            view.shot(FIGURES / 'app_why.jpg')
            return
        args.look.mkdir(parents=True, exist_ok=True)
        for name, size in SIZES.items():
            for dark in (False, True):
                view = View(chromium, url, pictures, size, dark)
                for kind in ('gallery', 'why', 'distort', 'versus'):
                    getattr(view, kind)()
                    view.shot(args.look / f'{kind}_{name}_{"dark" if dark else "light"}.png', whole=kind == 'gallery')
                view.context.close()


if __name__ == '__main__':
    main()
