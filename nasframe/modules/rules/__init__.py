"""Rules: which axes of the inputs and outputs of an ATen operation have the same units. One file per family of operations."""

from nasframe.modules.rules import attention, layers, movement, normalisation, recurrent, reductions
from nasframe.modules.rules.trace import Trace, Value, register_rule

__all__ = ["Trace", "Value", "attention", "layers", "movement", "normalisation", "recurrent", "reductions", "register_rule"]
