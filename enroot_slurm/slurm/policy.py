"""Decides whose fault an error is, and what follows from that; no other module does.

    user    a mistake of the user: it costs the job, and never a node
    site    the registry or the cache is in trouble: hooks try again, use another cache, or end the job
    node    something is wrong with this node alone

The table in docs/slurm.md is this one; a test compares them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm import errors

if TYPE_CHECKING:
    from enroot_slurm.errors import EnrootSlurmError

__all__ = ["EX_CONFIG", "FAIL", "NEXT", "OWN", "REFUSE", "RULES", "WAIT", "FaultRule", "rule_of"]

EX_CONFIG = 78
"""How a task ends that does not get its image; sysexits.h."""

# What the prolog does.
NEXT = "asks again as the user"
"""The site has no business there, but the user may: with own credentials, into the own cache."""
WAIT = "tries again"
"""For as long as ``site_failure_wait`` says."""
NOTE = "notes it"
# What a step does with an error that the prolog has noted.
FAIL = "fails"
OWN = "imports itself"
"""Into the user's own cache; if that fails too, ``on_site_failure`` says whether the job goes on without."""
# What stage-in does.
REFUSE = "refuses the job"
HOLD = "holds the job"


class FaultRule(NamedTuple):
    """The treatment of errors of class *error*, and of derived classes without a rule of their own."""

    error: type[EnrootSlurmError]
    fault: str
    """``user``, ``site`` or ``node``."""
    prolog: str
    step: str
    stage_in: str


RULES = (
    FaultRule(errors.UsageError, "user", NOTE, FAIL, REFUSE),
    FaultRule(errors.ConfigError, "site", NOTE, OWN, HOLD),
    FaultRule(errors.NotFound, "user", NEXT, FAIL, HOLD),
    FaultRule(errors.AccessDenied, "user", NEXT, FAIL, HOLD),
    FaultRule(errors.ImageRefused, "user", NOTE, FAIL, HOLD),
    FaultRule(errors.NetworkError, "site", WAIT, OWN, HOLD),
    FaultRule(errors.UnsupportedImage, "user", NOTE, FAIL, HOLD),
    FaultRule(errors.IntegrityError, "site", NOTE, FAIL, HOLD),
    FaultRule(errors.StorageError, "site", NEXT, OWN, HOLD),
    FaultRule(errors.ConversionError, "node", NOTE, OWN, HOLD),
    FaultRule(errors.WorkerFailed, "node", NOTE, OWN, HOLD),
    FaultRule(errors.EnrootSlurmError, "node", NOTE, OWN, HOLD),
)
"""The table; of an error's classes, the nearest one that is here counts."""


def rule_of(error: type[EnrootSlurmError] | EnrootSlurmError) -> FaultRule:
    """The rule for an error, or for a class of them."""
    kind = error if isinstance(error, type) else type(error)
    rules = {rule.error: rule for rule in RULES}
    return next(rules[each] for each in kind.__mro__ if each in rules)
