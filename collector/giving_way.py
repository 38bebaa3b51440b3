"""Lets who reads give way to what lands, where both want the same CPUs: an acknowledgement is short and waited for."""

import os
import sys
import threading
from contextlib import suppress
from typing import Final

#: Steps of niceness. On two cores with ten live viewers beside 30,000 spans a second the p99 of acknowledgements is
#: 13 ms without them, 8.0 with them, and 7.8 without viewers; the pages take as long.
STEPS: Final = 10
#: Seconds after which a thread that runs Python hands the interpreter on to another that waits, 0.005 by default.
#: Beside ten live viewers, with the folder in memory, the p99 of acknowledgements falls from 20 to 13 ms.
TURN_S: Final = 0.0005


def give_way() -> None:
    """Lower the priority of the calling thread and of those that it will start; does so on Linux alone.

    Elsewhere threads have none of their own.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + STEPS, 19))


def take_short_turns() -> None:
    """Let the threads of this process share the interpreter in short turns: an acknowledgement needs three of them."""
    sys.setswitchinterval(TURN_S)
