"""Which networks become versions of the registered model `selftrain-<benchmark>`, and as what.

Commands that are about one network register it: `teacher`, `student`, `main`, `finetune`. A search
registers its best alone, a study nothing: their many networks would hide the others. All of this is
read from finished runs, so that a training which is found again is registered like one that was
just made.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence

from selftrain import distributed, tracking
from selftrain.config import Config
from selftrain.lineage import Made, trace
from selftrain.lineage_record import has_chain, note_lineage
from selftrain.model_card import write_card

PREFIX = "selftrain-"
TEACHER, STUDENT, CONTROL, FINETUNED = "teacher", "student", "control", "finetune"
ALIASED = (TEACHER, STUDENT)
"""Roles that are aliases too: of the network that was last asked for."""


def register(config: Config, classes: Sequence[str], networks: Sequence[tuple[str, str]]) -> None:
    """Register trainings; a network that is registered before gets no second version.

    Before a student come the teachers of its pseudo labels. Where there are several, the alias
    `teacher` stays where it is.

    Args:
        config: Its benchmark names the model; `machine.register` may be off.
        classes: Names of the networks' classes: dev is the same only with the same classes.
        networks: (run id, what it is to the command), in the order in which they are registered.

    Raises:
        InputError: the store is away for too long, or there is no such run.
    """
    if not config.machine.register or distributed.rank() > 0:
        return
    done: set[tuple[str, str]] = set()
    for run_id, role in networks:
        for made, mine, alias in _with_teachers(trace(run_id), role):
            known = {it for it, _ in done}
            if (made.run_id, mine) in done or (made.run_id in known and mine not in ALIASED):
                continue  # a control that is the teacher itself, for example
            done.add((made.run_id, mine))
            _send(made, config, classes, mine, alias=alias)


def renew_card(config: Config, run_id: str) -> None:
    """Write what has been measured of a network into its card, if it is registered.

    Args:
        config: As in `register`.
        run_id: Of the training.

    Raises:
        InputError: as in `register`.
    """
    if config.machine.register and distributed.rank() == 0:
        _send(trace(run_id), config, (), "", renews=True)


def _with_teachers(made: Made, role: str) -> Iterator[tuple[Made, str, str]]:
    """Yield a network after the teachers of its labels: what it is, and the alias it gets."""
    sets = [it for it in made.sources if it.link == "pseudo_labels" and role == STUDENT]
    teachers = [it for labels in sets for it in labels.sources if it.link == "teacher" and it.run]
    for teacher in teachers:
        yield teacher, TEACHER, TEACHER if len(teachers) == 1 else ""
    yield made, role, role if role in ALIASED else ""


def _send(
    made: Made,
    config: Config,
    classes: Sequence[str],
    role: str,
    *,
    alias: str = "",
    renews: bool = False,
) -> None:
    run = made.run
    assert run is not None
    if made.sources and not has_chain(run):
        note_lineage(run.run_id)  # whoever has trained it was killed before
    evaluations = tracking.evaluations_of(run.run_id)
    names = hashlib.blake2b("\n".join(classes).encode(), digest_size=4).hexdigest()
    tracking.Run(run.run_id).register(
        tracking.Registration(
            name=PREFIX + config.benchmark,
            role=f"{role} {run.key[:6]}",
            alias=alias,
            description=write_card(made, benchmark=config.benchmark, evaluations=evaluations),
            tags={tracking.KEY_TAG: run.key, tracking.ROLE_TAG: role},
            dev_miou=run.metrics.get("dev/mIoU"),
            measured_on={**tracking.measured_on(run), "classes": names},
            asked=int(time.time() * 1000),
            renews=renews,
        )
    )
