"""Lets who reads give way to what lands, where both want the same CPUs: an acknowledgement is short and waited for."""

import os
import sys
import threading
from contextlib import suppress
from typing import Final

#: Steps of niceness. On two cores with ten live viewers beside 30,000 spans a second the p99 of acknowledgements is
#: 13 ms without them, 8.0 with them, and 7.8 without viewers; the pages take as long.
STEPS: Final = 10


def give_way() -> None:
    """Lower the priority of the calling thread and of those that it will start; does so on Linux alone.

    Elsewhere threads have none of their own.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + STEPS, 19))
