"""Every error that nasframe raises on purpose. Each says what was given, why it is wrong and what to write instead.

NasframeError
├── StructureError        a structure that cannot exist, or whose JSON cannot be read
├── ChangeError           a change of structure that was refused before anything happened
│   └── ClaimError        a change that does not keep what it claimed
├── PluginError           a plugin that cannot be loaded, or that clashes with another
│   └── UnknownNameError  no part of that kind has that name
├── StrategyError         a strategy with an unknown key or an impossible value
├── DataError             data that cannot be used
├── NonFiniteError        training that left the finite numbers
└── RunError              a run folder that cannot be used
    └── CheckpointError   a commit that is damaged or does not fit this installation
"""


class NasframeError(Exception):
    """The base of all errors below."""


class StructureError(NasframeError):
    """A structure that cannot exist, or whose JSON cannot be read."""


class ChangeError(NasframeError):
    """A change of structure that was refused; the parent is as it was."""


class ClaimError(ChangeError):
    """A change that does not keep what it claimed; the parent is as it was."""


class PluginError(NasframeError):
    """A plugin that cannot be loaded, or that clashes with another."""


class UnknownNameError(PluginError):
    """No part of that kind has that name."""


class StrategyError(NasframeError):
    """A strategy with an unknown key or an impossible value."""


class DataError(NasframeError):
    """Data that cannot be used as it is."""


class NonFiniteError(NasframeError):
    """A loss that is not a finite number."""


class RunError(NasframeError):
    """A run folder that cannot be used."""


class CheckpointError(RunError):
    """A commit that is damaged or does not fit this installation."""
