"""What the server of children that train has imported before the first child: torch as well, nothing of it used yet."""

from contextlib import suppress

with suppress(ImportError):  # the training extra is not installed
    import sifthinker.training.scratch.export
    import sifthinker.training.scratch.train
    import sifthinker.training.sft.cli  # noqa: F401
