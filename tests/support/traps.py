"""At which of its writes an operator is killed, by what its job is on the way to."""

from __future__ import annotations

from typing import Final

from killed_operator import Trap

SERVICE: Final = ("create", "services")
POD: Final = ("create", "pods")
DELETION: Final = ("delete", "pods")
STRIP: Final = ("patch", "pods")
STATUS: Final = ("update", "trainingjobs/status")

TO_COMPLETE: Final = {
    "before the first move": Trap("before", *STATUS, state="Assembling"),
    "after the first move": Trap("after", *STATUS, state="Assembling"),
    "before the Service": Trap("before", *SERVICE),
    "after the Service": Trap("after", *SERVICE),
    "after pod 1": Trap("after", *POD, nth=1),
    "after pod 2": Trap("after", *POD, nth=2),
    "after pod 3": Trap("after", *POD, nth=3),
    "before it runs": Trap("before", *STATUS, state="Running"),
    "after it runs": Trap("after", *STATUS, state="Running"),
    "before it is complete": Trap("before", *STATUS, state="Complete"),
    "after it is complete": Trap("after", *STATUS, state="Complete"),
}
TO_SUSPENDED: Final = {
    "before the move": Trap("before", *STATUS, state="Suspending"),
    "before the first deletion": Trap("before", *DELETION),
    "after the first deletion": Trap("after", *DELETION),
    "after the first pod is let go": Trap("after", *STRIP),
    "before it is suspended": Trap("before", *STATUS, state="Suspended"),
    "after it is suspended": Trap("after", *STATUS, state="Suspended"),
}
TO_RESUMED: Final = {
    "before the move": Trap("before", *STATUS, state="Assembling"),
    "after the move": Trap("after", *STATUS, state="Assembling"),
    "after pod 1": Trap("after", *POD),
}
TO_GONE: Final = {
    "before the first pod is let go": Trap("before", *STRIP),
    "after the first pod is let go": Trap("after", *STRIP),
}
TO_RESTARTED: Final = {
    "before the move": Trap("before", *STATUS, state="Assembling", number=2),
    "after the move": Trap("after", *STATUS, state="Assembling", number=2),
    "before it runs": Trap("before", *STATUS, state="Running", number=2),
    "after it runs": Trap("after", *STATUS, state="Running", number=2),
}
TO_RUN_FROM: Final = {
    "before the record": Trap("before", *STATUS, state="Running", number=2, origin=True),
    "after the record": Trap("after", *STATUS, state="Running", number=2, origin=True),
}
"""What attempt 2 runs from is proposed, and is to be stored."""
