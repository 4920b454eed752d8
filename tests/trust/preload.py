"""What the server of children has imported before the first child: all that commands load lazily and that is slow.

No torch: its threads and a fork do not go together.
"""

import sys
from contextlib import suppress

import sifthinker.agent.asking
import sifthinker.agent.chatting
import sifthinker.agent.cli
import sifthinker.agent.history
import sifthinker.agent.report
import sifthinker.agent.saving

with suppress(ImportError):  # extras that are not installed
    import sifthinker.agent.chat_saver
    import sifthinker.policy.remote
    import sifthinker.training.compare.cli
    import sifthinker.training.compare.report
    import sifthinker.training.compare.run
    import sifthinker.training.data.build
    import sifthinker.training.data.cli
    import sifthinker.training.data.tables  # noqa: F401


def tell_imported() -> None:
    """Print what of the command line is there before it begins, and whether torch is."""
    wanted = ("sifthinker.agent.asking", "sifthinker.agent.cli", "langgraph.graph", "sifthinker.policy.remote")
    print(*(name in sys.modules for name in wanted), "torch" in sys.modules)
