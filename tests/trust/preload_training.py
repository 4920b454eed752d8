"""What the server of children that train has ready before the first child: torch, not used yet, and the words."""

from contextlib import suppress

with suppress(ImportError):  # the training extra is not installed
    import sifthinker.training.grpo.run
    import sifthinker.training.rewards.judge
    import sifthinker.training.scratch.export
    import sifthinker.training.scratch.stream
    import sifthinker.training.scratch.train
    import sifthinker.training.sft.cli

    sifthinker.training.scratch.stream.corpus()  # always the same, and longer to make than a tiny policy to train
