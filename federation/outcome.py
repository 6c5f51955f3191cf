"""Whether a release is what a plan may end with: signed, the plan's own, and through its gate."""

from federation.errors import ProtocolError
from federation.model.evaluation import Quality
from federation.model.release import AnyRelease
from federation.plan import Plan


def require_outcome(release: AnyRelease, plan: Plan) -> None:
    """Returns only if a plan may end with a release.

    Raises:
        ProtocolError: another key than the plan's coordinator's signed it, it names another plan,
            or its AUC on people held out does not pass the plan's gate.
    """
    release.require_signed_by(plan.coordinator)
    if release.plan != plan.digest:
        raise ProtocolError("The release comes from another plan.")
    require_gate(release.report.overall, plan)


def require_gate(overall: Quality | None, plan: Plan) -> None:
    """Returns only if what was trained passes the gate of its plan.

    Args:
        overall: its quality on people held out; None if noise hides it.
        plan: that it was trained by.

    Raises:
        ProtocolError: it is clearly worse than the plan's least AUC (the upper end of the 95 %
            interval lies below), or noise hides how good it is.
    """
    least = plan.least_auc
    if least is None:
        return
    if overall is None:
        raise ProtocolError(
            f"Noise hides the AUC on people held out, of which the plan asks {least:g} at least: "
            "nothing is released."
        )
    if overall.auc.high < least:
        raise ProtocolError(
            f"The AUC on people held out is {overall.auc.value:.3f} ({overall.auc.low:.3f} to "
            f"{overall.auc.high:.3f}), the plan asks {least:g} at least: nothing is released."
        )
