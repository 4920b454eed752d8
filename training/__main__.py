"""The command line as a module, for launchers that take one: `torchrun --module sifthinker.training train sft …`."""

from sifthinker.agent.cli import main

if __name__ == "__main__":
    main()
