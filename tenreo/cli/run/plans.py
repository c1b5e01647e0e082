"""What `tenreo compress --dry-run` prints."""

from tenreo.cli.terminal.console import show, show_json
from tenreo.cli.terminal.results import comparison
from tenreo.cli.terminal.tables import counts_table, dense_table, layers_table
from tenreo.planning.plan import Plan


def show_plan(plan: Plan, json: bool) -> None:
    """Print a plan as tables or JSON."""
    if json:
        show_json("compress", plan.to_dict())
        return
    show(layers_table((layer.name, layer.record) for layer in plan.compressed))
    if any(layer.why_dense for layer in plan.layers):
        show(dense_table(plan.layers))
    show(counts_table(plan.before, plan.after), f"recipe: {plan.recipe}", f"curves: {plan.strategy}")
    show(f"{comparison(plan.before, plan.after)}, about; nothing was written")
