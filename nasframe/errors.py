"""The errors that nasframe raises on purpose.

Each message says what was given, why it is wrong, and what to write instead::

    NasframeError
    ├── StructureError        a structure that cannot exist, or whose JSON cannot be read
    ├── ChangeError           a change of a structure that was refused
    │   └── ClaimError        a change that does not keep its claim
    ├── PluginError           a plugin that cannot be loaded, or that clashes with another
    │   └── UnknownNameError  a name that no part has
    ├── StrategyError         a strategy with an unknown key or an impossible value
    ├── DataError             data that cannot be used
    ├── NonFiniteError        a loss or an output that is not a finite number
    └── RunError              a run folder that cannot be used
        └── CheckpointError   a commit that is damaged or does not fit this installation
"""


class NasframeError(Exception):
    """Base class of all errors that nasframe raises on purpose."""


class StructureError(NasframeError):
    """A structure that cannot exist, whose JSON cannot be read, or that does not fit its data."""


class ChangeError(NasframeError):
    """A change of a structure that was refused. The parent is unchanged."""


class ClaimError(ChangeError):
    """A change whose outputs differ more than its claim allows. The parent is unchanged."""


class PluginError(NasframeError):
    """A plugin that cannot be loaded, or that clashes with another."""


class UnknownNameError(PluginError):
    """A name that no part of the requested kind has."""


class StrategyError(NasframeError):
    """A strategy with an unknown key or an impossible value."""


class DataError(NasframeError):
    """Data that cannot be used as they are."""


class NonFiniteError(NasframeError):
    """A loss or an output that is NaN or infinite."""


class RunError(NasframeError):
    """A run folder that cannot be used."""


class CheckpointError(RunError):
    """A commit that is damaged or does not fit this installation."""
