"""Which kind of site an equation is, and which equations only group others."""

from collections.abc import Sequence
from typing import Any

from jaxnets.equations import on_any_platform
from jaxnets.gradients.graph import Node, body_of

REMAT = {"remat", "remat2", "checkpoint"}
# calls that only group equations; `checkpoint` is one to whoever stores what the sites need
ENTERED = {"jit", "pjit", "closed_call", "core_call"} | REMAT
CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


# of these, the gradient of a parameter is a sum of error signals times values of the example
_ELEMENTWISE = {
    "add", "add_any", "clamp", "convert_element_type", "div", "dynamic_slice", "exp", "log",
    "max", "min", "mul", "neg", "select_n", "sub",
}  # fmt: skip


def _row_gather(equation: Any) -> bool:
    """Whether it takes whole rows of a matrix, as embeddings do."""
    table, *_ = (v.aval for v in equation.invars)
    numbers = equation.params["dimension_numbers"]
    rows = equation.outvars[0].aval
    return bool(
        table.ndim == 2
        and numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and tuple(equation.params["slice_sizes"]) == (1, table.shape[1])
        and numbers.offset_dims == (rows.ndim - 1,)
    )


def _plain_conv(equation: Any) -> bool:
    return bool(equation.params["batch_group_count"] == 1)


def _whole(program: Any) -> Any:
    """The one equation that a program is, or None; of one for each platform, the default's."""
    if not program.eqns or program.eqns[-1].outvars != list(program.outvars):
        return None
    *before, last = program.eqns
    default = on_any_platform(last)
    if default is not None:
        chosen = [e.primitive.name for e in before] == ["platform_index"]
        own = list(last.invars[1:]) == list(program.invars)
        return _whole(default.jaxpr) if chosen and own else None
    return last if not before and list(last.invars) == list(program.invars) else None


def kind_of(equation: Any, operands: Sequence[Node | None]) -> tuple[str, Any, int]:
    """The site's kind, the equation that has its products, and the operand with the parameter."""
    trained = [i for i, node in enumerate(operands) if node is not None and node.trained]
    given = [i for i, node in enumerate(operands) if node is None]
    plain = equation.primitive.name in _ELEMENTWISE
    other = "elementwise" if plain else "other", equation, trained[0]
    if len(trained) != 1:
        return other
    (operand,) = trained
    inner = equation
    if equation.primitive.name in CUSTOM:
        # a rule of its own around a single product, as that of `jaxnets.nn.conv`
        body = body_of(equation)
        inner = None if body is None else _whole(body.jaxpr)
        if inner is None:
            return other
    name = inner.primitive.name
    if name == "dot_general" and len(given) == 1:
        return "dot", inner, operand
    if name == "conv_general_dilated" and operand == 1 and given == [0] and _plain_conv(inner):
        return "conv", inner, operand
    if name == "gather" and operand == 0 and given == [1] and _row_gather(inner):
        return "gather", inner, operand
    return other
