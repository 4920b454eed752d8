"""Whether an image is of the block world."""

from PIL import Image


def looks_like_block_world(image: Image.Image) -> bool:
    return True
