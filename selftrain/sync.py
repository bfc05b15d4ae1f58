"""`python -m selftrain sync`: deliver what runs could not tell the tracking store.

Messages wait in `spool`, below the products, when the store did not come back before the end of a
stage, or the stage's process died while it was away. It does no harm to be killed here: what is
delivered twice is in the store once.
"""

from pathlib import Path

from selftrain import progress, tracking
from selftrain.errors import InputError
from selftrain.locks import FileLock, describe_holder
from selftrain.summary import Summary


def sync(outputs: Path, patience: float) -> Summary:
    """Deliver what waits, and end the runs with the status they had.

    A stage whose run so becomes FINISHED is found by the next command, and not made again.

    Args:
        outputs: Folder of the products.
        patience: Seconds to wait for the store if it goes away meanwhile.

    Returns:
        What was delivered.

    Raises:
        InputError: the store does not answer, or something of it could not be delivered.
    """
    tracking.connect(outputs, patience)
    found = tracking.deliver_left()
    for done in found:
        progress.say(tracking.describe(done))
    at_work = tracking.spools_of_others()
    for folder in at_work:
        holder = describe_holder(FileLock(folder / "lock").holder())
        progress.say(f"{folder} is left to {holder} which writes it")
    failed = [done for done in found if done.left is not None]
    if failed:
        raise InputError(
            f"Of {len(found)} runs, what {len(failed)} have logged could not be delivered in full; "
            f"the first is {failed[0].run_id}: {failed[0].left}"
        )
    messages = sum(done.messages for done in found)
    what = f"{messages} messages of {len(found)} runs delivered"
    if not found and not at_work:
        what = f"nothing waits in {outputs / tracking.SPOOL}"
    return Summary(
        what=what,
        details={
            "delivered": {done.run_id: done.messages for done in found},
            "left to others": [str(folder) for folder in at_work],
        },
    )
