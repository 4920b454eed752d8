"""What a person does on the page in a real browser, in a word each, for its tests."""

import numpy as np
from web_serving import scripted_agent

from sifthinker.nodes.depth import DepthMap

SIZE = (320, 240)
LEFT, RIGHT = (0.1, 0.2, 0.5, 0.6), (0.5, 0.2, 0.9, 0.6)


def agent(*lines, **settings):
    ramp = np.tile(np.linspace(0, 1, SIZE[0], dtype=np.float32), (SIZE[1], 1))
    return scripted_agent(*lines, depth=DepthMap(ramp, "ramp"), **settings)


def take(page, picture):
    page.set_input_files("#file", picture)
    page.wait_for_selector("#looking:not([hidden])")


def ask(page, question="What colour?", state="answered"):
    before = page.locator(".turn").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_function("count => document.querySelectorAll('.turn').length > count", arg=before)
    page.wait_for_selector(f".turn:first-child[data-state={state}]")


def waiting(page, picture):
    take(page, picture)
    page.check("#confirm")
    ask(page, state="waiting")
    page.wait_for_selector(".edit")
