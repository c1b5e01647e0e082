"""What `tenreo compress --dry-run` prints, and notes about layers that are left dense."""

from tenreo.cli.terminal.console import note, show, show_json
from tenreo.cli.terminal.results import comparison
from tenreo.cli.terminal.tables import LARGE, counts_table, dense_table, layers_table
from tenreo.errors import counted
from tenreo.planning.plan import Plan

_NOTED = 5.0  # percent of the parameters that are left dense because of a rule


def note_dense_layers(plan: Plan) -> None:
    """Print the layers that cannot be compressed though they are included, and how to reach those outside the rule."""
    for layer in plan.skipped:
        note(f"{layer.name} is left dense: {layer.why_dense}")
    large = sorted((layer for layer in plan.left_by_rule if layer.numel >= LARGE), key=lambda layer: -layer.numel)
    share = 100 * sum(layer.numel for layer in large) / max(1, plan.before.dense_parameters)
    if share >= _NOTED:
        names = ", ".join(layer.name for layer in large[:3]) + (", ..." if large[3:] else "")
        verb = "is" if len(large) == 1 else "are"
        note(
            f"{counted(len(large), 'weight')} ({names}) with {share:.0f} % of the parameters {verb} "
            f"{large[0].why_dense}: --include '*' compresses every weight"
        )


def show_plan(plan: Plan, json: bool) -> None:
    """Print a plan as tables or JSON."""
    note_dense_layers(plan)
    if json:
        show_json("compress", plan.to_dict())
        return
    show(layers_table((layer.name, layer.record) for layer in plan.compressed))
    if any(layer.why_dense for layer in plan.layers):
        show(dense_table(plan.layers))
    show(counts_table(plan.before, plan.after), f"recipe: {plan.recipe}", f"curves: {plan.strategy}")
    show(f"{comparison(plan.before, plan.after)}, about; nothing was written")
